// The logs: one is followed at a time, from its last entries on. A connection that breaks goes on where it was.

import { byId, make, many, moment, setText, sync } from "./dom.js";
import { Stream } from "./streams.js";

const MOST = 2000;
const LEVELS = { DEBUG: 10, INFO: 20, WARNING: 30, ERROR: 40, CRITICAL: 50 };
const lines = byId("log-lines");
const choice = byId("log-choice");

let followed = null;
let events = null;
let atEnd = true;

/** Offer the logs that there are, and follow the one that is chosen. */
export function showLogs(namespaces) {
  const logs = namespaces.flatMap((one) => one.logs);
  logs.sort((one, other) => Number(other.path.startsWith("__")) - Number(one.path.startsWith("__")) || one.path.localeCompare(other.path));
  sync(choice, logs, (log) => log.path, (log) => make("option", { value: log.path }), (option, log) => setText(option, `${log.path === "__syslog__/syslog" ? "log of the store" : log.path} (${log.length})`));
  if (!logs.length && followed === null) setText(lines, "There are no logs.");
  else if (logs.length && choice.value !== followed) follow(choice.value);
  const left = namespaces.reduce((total, one) => total + one.left_out.logs, 0);
  setText(byId("log-note"), left ? `${many(left, "more log")} not shown.` : "");
}

function follow(path) {
  events?.close();
  followed = path;
  lines.replaceChildren();
  atEnd = true;
  events = new Stream("/logs", { path }, {
    entries: ({ cleared, entries }) => {
      if (cleared) lines.replaceChildren(make("div", { class: "line mark" }, "the log was cleared"));
      lines.append(...entries.map(line));
      while (lines.childElementCount > MOST) lines.firstElementChild.remove();
      if (byId("log-follow").getAttribute("aria-pressed") === "true" && atEnd) lines.scrollTop = lines.scrollHeight;
    },
    gone: () => {
      events.close();
      lines.append(make("div", { class: "line mark" }, "the log was dropped"));
      followed = null;
    },
    refused: () => { followed = null; }, // and followed anew with the next change, if it is there
  });
}

function line(entry) {
  if (entry.text !== undefined) return make("div", { class: "line text" }, make("span", { class: "index" }, String(entry.index)), make("span", { class: "message" }, entry.text));
  const from = [entry.logger, entry.process, entry.pid && `[${entry.pid}]`].filter(Boolean).join(" ");
  const element = make("div", { class: `line ${entry.level.toLowerCase().replace(/[^a-z]/g, "")}` },
    make("time", {}, moment(entry.time)), make("span", { class: "level" }, entry.level),
    make("span", { class: "message" }, entry.message, make("span", { class: "from" }, `  ${from}`)));
  element.dataset.level = LEVELS[entry.level] ?? 0;
  element.hidden = Number(element.dataset.level) < Number(byId("log-level").value);
  return element;
}

choice.addEventListener("change", () => follow(choice.value));
byId("log-level").addEventListener("change", () => {
  for (const element of lines.children) element.hidden = Number(element.dataset.level ?? 100) < Number(byId("log-level").value);
  lines.scrollTop = lines.scrollHeight;
});
byId("log-follow").addEventListener("click", ({ currentTarget }) => {
  const on = currentTarget.getAttribute("aria-pressed") !== "true";
  currentTarget.setAttribute("aria-pressed", String(on));
  if (on) {
    atEnd = true;
    lines.scrollTop = lines.scrollHeight;
  }
});
// Whoever scrolls back is left in peace.
lines.addEventListener("scroll", () => { atEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 24; });
