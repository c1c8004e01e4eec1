// Buttons that change something: each asks first, in words that say what will happen.

import { byId, make, setText } from "./dom.js";

let readOnly = true; // until it is known

export function setReadOnly(value) {
  readOnly = value;
}

export const isReadOnly = () => readOnly;

/** Say something for a moment. */
export function toast(text, bad = false) {
  const element = make("div", { class: bad ? "toast bad" : "toast" }, text);
  const toasts = byId("toasts");
  const place = byId("drawer").open ? byId("drawer") : document.body; // beside an open dialog nothing can be seen, nor is it read aloud
  if (toasts.parentElement !== place) place.append(toasts);
  toasts.append(element);
  setTimeout(() => element.remove(), bad ? 8000 : 4000);
}

/** Ask, and return the answer: false, or true, or the number that was asked for. */
function ask({ title, text, button, danger, number }) {
  const dialog = byId("confirm");
  setText(byId("confirm-title"), title);
  setText(byId("confirm-text"), text);
  setText(byId("confirm-ok"), button);
  byId("confirm-ok").className = danger ? "primary danger" : "primary";
  const field = byId("confirm-field");
  field.hidden = number === undefined;
  byId("confirm-number").disabled = number === undefined;
  if (number !== undefined) {
    setText(byId("confirm-label"), number.label);
    byId("confirm-number").value = number.value;
  }
  dialog.returnValue = "cancel";
  dialog.showModal();
  (number === undefined ? byId("confirm-cancel") : byId("confirm-number")).focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const agreed = dialog.returnValue === "ok";
      resolve(agreed && number !== undefined ? byId("confirm-number").valueAsNumber : agreed);
    }, { once: true });
  });
}

// It is no button of the form's: then the Enter key in the field would press it, and a number that is not allowed would keep it from closing.
byId("confirm-cancel").addEventListener("click", () => byId("confirm").close("cancel"));

async function post(action, values) {
  try {
    const answer = await fetch(`/api/actions/${action}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(values),
    });
    const said = await answer.json();
    toast(answer.ok ? said.done : said.error, !answer.ok);
  } catch {
    toast("The dashboard did not answer.", true);
  }
}

async function askAndPost(action, values, question) {
  const answer = await ask(question);
  if (answer !== false) await post(action, typeof answer === "number" ? { ...values, size: answer } : values);
}

const which = ({ name, uuid }) => ({ name, uuid });

export const terminate = (process, grace) => askAndPost("terminate", which(process), {
  title: `Terminate ${process.name}?`,
  text: process.status === "submitted"
    ? "It is taken off the queue, and has crashed then (exit code -15)."
    : `SIGTERM goes to process ${process.pid} and all that it has started; SIGKILL follows after ${grace} seconds.`,
  button: "Terminate",
  danger: true,
});

export const kill = (process) => askAndPost("kill", which(process), {
  title: `Kill ${process.name}?`,
  text: `SIGKILL goes to process ${process.pid} and all that it has started, at once: nothing of it can tidy up.`,
  button: "Kill",
  danger: true,
});

export const forget = (process) => askAndPost("forget", which(process), {
  title: `Forget ${process.name}?`,
  text: "Its status, result, data and output are deleted.",
  button: "Forget",
  danger: true,
});

export const clean = (ended) => askAndPost("clean", {}, {
  title: "Forget all processes that have ended?",
  text: `The status, result, data and output of ${ended} are deleted.`,
  button: "Forget them",
  danger: true,
});

export const resize = (size) => askAndPost("resize", {}, {
  title: "Resize the pool?",
  text: "For everybody who uses this store, from now on. A running process is never interrupted; with 0 workers everything that is submitted waits.",
  button: "Resize",
  number: { label: "Workers", value: size },
});

export const startPool = () => askAndPost("start", {}, {
  title: "Start the pool?",
  text: "A supervisor and its workers are started, and run what is submitted.",
  button: "Start",
});

export const stopPool = (running) => askAndPost("stop", {}, {
  title: "Stop the pool?",
  text: `Supervisor and workers are ended. What runs (${running}) is terminated and has crashed then; what is submitted waits for the next pool.`,
  button: "Stop",
  danger: true,
});

/** Have the store looked at: for what rings no bell. */
export async function refresh() {
  const answer = await fetch("/api/state?fresh=1");
  if (answer.ok) toast("Looked again.");
}
