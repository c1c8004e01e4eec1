// One process: what is known of it, what came of it, and its output as it is written.

import { Ago, byId, count, make, moment, setFacts, setText, sync } from "./dom.js";
import { isReadOnly } from "./actions.js";
import { processButtons, took } from "./panels.js";
import { Stream } from "./streams.js";

const MOST = 400_000; // characters of output that the page keeps
const drawer = byId("drawer");
const output = byId("drawer-output");

let shown = null; // {name, uuid}
let events = null;
let status = null;
let result = null;

/** Show a process. */
export function openDrawer(name, uuid) {
  shown = { name, uuid };
  status = result = null;
  setText(byId("drawer-title"), name);
  output.replaceChildren();
  byId("drawer-failure").hidden = true;
  setFacts(byId("drawer-facts"), []);
  byId("drawer-actions").replaceChildren();
  follow();
  drawer.showModal();
  document.dispatchEvent(new Event("parkit:redraw"));
}

function follow() {
  events?.close();
  setText(byId("drawer-state"), "following");
  events = new Stream("/output", shown, {
    skipped: ({ bytes }) => append(`[${count(bytes)} bytes before this are not shown]\n`),
    text: ({ text, cut }) => append(cut ? `\n[the output was cut]\n${text}` : text),
    end: (end) => {
      events.close();
      setText(byId("drawer-state"), output.textContent ? end.status : "it has written nothing");
    },
    refused: () => setText(byId("drawer-state"), "not followed any more"),
  });
}

function append(text) {
  const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 24;
  output.append(text);
  while (output.textContent.length > MOST && output.childNodes.length > 1) output.firstChild.remove();
  if (atEnd) output.scrollTop = output.scrollHeight;
}

/** Keep up with the process that is shown. */
export function showDrawer(namespaces) {
  if (!drawer.open || shown === null) return;
  const row = namespaces.flatMap((one) => one.processes.rows).find((one) => one.uuid === shown.uuid);
  if (row === undefined) return;
  setFacts(byId("drawer-facts"), [
    ["status", row.signal && row.status === "running" ? `ending (${row.signal})` : row.status],
    ["submitted", row.submitted && moment(row.submitted)],
    ["started", row.started && moment(row.started)],
    ["ran", row.status === "running" ? new Ago(row.started) : row.started && row.ended && took(row.ended - row.started)],
    ["pid", row.pid],
    ["exit code", row.exitcode],
    ["result", result],
  ]);
  const buttons = isReadOnly() ? [] : processButtons(row);
  sync(byId("drawer-actions"), buttons, ([text]) => text, ([text]) => make("button", { type: "button" }, text), (element, [, handler, tone]) => {
    element.className = tone;
    element.onclick = handler;
  });
  if (row.status !== status) {
    status = row.status;
    if (["finished", "failed", "crashed"].includes(status)) loadOutcome(shown);
  }
}

async function loadOutcome(process) {
  const answer = await fetch(`/api/process?${new URLSearchParams({ name: process.name })}`);
  if (!answer.ok) return;
  const found = await answer.json();
  if (found.uuid !== shown?.uuid) return;
  result = found.result;
  const failure = byId("drawer-failure");
  failure.hidden = found.failure === null;
  if (found.failure) setText(failure, found.failure.traceback || `${found.failure.type}: ${found.failure.message}`);
  document.dispatchEvent(new Event("parkit:redraw"));
}

byId("drawer-close").addEventListener("click", () => drawer.close());
drawer.addEventListener("click", (event) => { if (event.target === drawer) drawer.close(); });
drawer.addEventListener("close", () => {
  events?.close();
  events = null;
  shown = null;
  document.body.append(byId("toasts"));
});
