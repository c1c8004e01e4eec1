// The panels: each shows the latest state, changing only what is another now.

import { Ago, byId, bytes, count, make, many, moment, now, setClass, setFacts, setText, span, sync } from "./dom.js";
import { clean, forget, isReadOnly, kill, resize, startPool, stopPool, terminate } from "./actions.js";
import { draw, makeChart } from "./charts.js";
import { openDrawer } from "./drawer.js";

const STATUSES = ["running", "submitted", "created", "finished", "failed", "crashed"];
const OVER = ["finished", "failed", "crashed"];

let wanted = null; // the status that is shown; null is all
let grace = 5;

const sum = (values) => values.reduce((total, value) => total + value, 0);
const statusCounts = (namespaces) => Object.fromEntries(STATUSES.map((status) => [status, sum(namespaces.map((one) => one.processes.counts[status]))]));
const plain = (namespaces) => namespaces.filter((one) => !one.hidden);

function button(text, label, handler, extra = "") {
  return make("button", { type: "button", class: extra, "aria-label": label, on: { click: handler } }, text);
}

// Overview

export function showOverview(pool, namespaces) {
  const counts = statusCounts(namespaces);
  const busy = pool.workers.filter((worker) => worker.state === "busy").length;
  const queues = namespaces.flatMap((one) => one.queues);
  const fullest = [...namespaces].sort((one, other) => other.used / other.limit - one.used / one.limit)[0];
  const oldest = namespaces.flatMap((one) => one.snapshots.filter((snapshot) => snapshot.since !== null)).sort((one, other) => one.since - other.since)[0];
  const bad = counts.failed + counts.crashed;
  const tiles = [
    ["Pool", pool.running ? "running" : "not running", pool.running ? `supervisor ${pool.pid}, epoch ${pool.epoch}` : "starts with the next process", pool.running ? "good" : ""],
    ["Workers", `${busy} / ${pool.workers.length}`, `busy, of ${many(pool.size, "worker")} wanted`],
    ["Running", count(counts.running), `${count(counts.submitted)} submitted`],
    ["Failed or crashed", count(bad), `${count(counts.finished)} finished`, bad ? "bad" : ""],
    ["Queued items", count(sum(queues.map((queue) => queue.depth))), `in ${many(queues.length, "queue")}`],
    ["Used", bytes(sum(namespaces.map((one) => one.used))), fullest ? `fullest: ${fullest.name}, ${share(fullest)}` : "no namespaces", level(fullest)],
    ["Oldest snapshot", oldest ? new Ago(oldest.since) : "none", oldest ? `of process ${oldest.pid}` : "nothing is held back", oldest && now() - oldest.since > 600 ? "warn" : ""],
  ];
  sync(byId("overview"), tiles, ([label]) => label,
    ([label]) => make("div", { class: "tile" }, make("div", { class: "label" }, label), make("div", { class: "value" }), make("div", { class: "detail" })),
    (tile, [, value, detail, tone]) => {
      setClass(tile, tone ? `tile ${tone}` : "tile");
      const shown = tile.children[1];
      if (value instanceof Ago) value.show(shown), setClass(shown, "value");
      else {
        delete shown.dataset.since;
        setText(shown, value);
      }
      setText(tile.children[2], detail);
    });
}

const share = (namespace) => `${((100 * namespace.used) / namespace.limit).toFixed(1)} %`;
const level = (namespace) => (!namespace || namespace.used < 0.8 * namespace.limit ? "" : namespace.used < 0.95 * namespace.limit ? "warn" : "bad");

// Pool and processes

export function showPool(pool) {
  grace = pool.options?.grace ?? grace;
  const buttons = isReadOnly() ? [] : [
    pool.running ? null : ["Start pool", startPool],
    ["Resize", () => resize(pool.size)],
    pool.running ? ["Stop pool", () => stopPool(many(pool.workers.filter((worker) => worker.state === "busy").length, "process", "processes")), "danger"] : null,
  ].filter(Boolean);
  const actions = byId("pool-actions");
  const signature = JSON.stringify([buttons.map(([text]) => text), pool.size, pool.workers.map((worker) => worker.state)]);
  if (actions.dataset.signature !== signature) {
    actions.dataset.signature = signature;
    sync(actions, buttons, ([text]) => text, ([text]) => make("button", { type: "button" }, text), (element, [, handler, tone]) => {
      element.onclick = handler;
      setClass(element, tone ?? "");
    });
  }
  const workers = pool.workers.length ? pool.workers : [{ id: "none", state: "none" }];
  sync(byId("pool"), workers, (worker) => worker.id, () => make("span", {}, make("span"), make("span", { class: "mono" })), (element, worker) => {
    setClass(element, `worker ${worker.state}`);
    setText(element.children[0], worker.state === "none" ? `No workers${pool.running ? "" : "; the pool is not running"}` : `${worker.pid} ${worker.state}`);
    setText(element.children[1], worker.process ?? "");
  });
}

export function showProcesses(namespaces) {
  const counts = statusCounts(namespaces);
  const all = sum(Object.values(counts));
  sync(byId("statuses"), [["all", all], ...STATUSES.map((status) => [status, counts[status]])], ([status]) => status,
    ([status]) => make("button", { type: "button", on: { click: () => { wanted = status === "all" || wanted === status ? null : status; document.dispatchEvent(new Event("parkit:redraw")); } } }),
    (chip, [status, number]) => {
      setText(chip, `${status} ${count(number)}`);
      chip.setAttribute("aria-pressed", String((wanted ?? "all") === status));
    });
  const search = byId("search").value.trim().toLowerCase();
  const order = { running: 0, submitted: 1, created: 2 };
  const found = namespaces.flatMap((one) => one.processes.rows)
    .filter((row) => (wanted === null || row.status === wanted) && row.name.toLowerCase().includes(search))
    .sort((one, other) => (order[one.status] ?? 3) - (order[other.status] ?? 3) || (other.ended ?? 0) - (one.ended ?? 0) || (one.started ?? one.submitted ?? 0) - (other.started ?? other.submitted ?? 0));
  const rows = found.slice(0, 300);
  sync(byId("process-rows"), rows, (row) => row.uuid, buildProcess, updateProcess);
  const hidden = sum(namespaces.map((one) => one.processes.left_out)) + found.length - rows.length;
  const over = OVER.reduce((total, status) => total + counts[status], 0);
  const note = byId("process-note");
  const text = all === 0 ? "There are no processes."
    : [rows.length === 0 && "None is like that.", hidden && `${many(hidden, "older process", "older processes")} not shown.`].filter(Boolean).join(" ");
  const signature = `${text}|${over}|${isReadOnly()}`;
  if (note.dataset.signature !== signature) {
    note.dataset.signature = signature;
    const forgetAll = over && !isReadOnly() ? [" ", make("button", { id: "clean", type: "button", class: "link", on: { click: () => clean(many(over, "process", "processes")) } }, `Forget the ${count(over)} that ${over === 1 ? "has" : "have"} ended`)] : [];
    note.replaceChildren(...[text, ...forgetAll].filter(Boolean));
  }
}

function buildProcess(row) {
  const name = make("button", { type: "button", class: "name", on: { click: () => openDrawer(row.name, row.uuid) } }, row.name);
  return make("tr", {},
    make("td", {}, name, make("span", { class: "problem" })),
    make("td", {}, make("span")),
    make("td", { "data-label": "started" }),
    make("td", { class: "number", "data-label": "ran" }, make("span")),
    make("td", { class: "number", "data-label": "pid" }),
    make("td", { class: "number", "data-label": "exit" }),
    make("td", { class: "wide" }, make("div", { class: "actions" })));
}

function updateProcess(element, row) {
  const [name, status, started, ran, pid, exit, actions] = element.children;
  setText(name.children[1], row.error);
  setText(status.firstChild, row.signal && row.status === "running" ? `ending (${row.signal})` : row.status);
  setClass(status.firstChild, `status ${row.status}`);
  const when = row.started ?? row.submitted;
  setText(started, when ? moment(when) : "");
  const time = ran.firstChild;
  if (row.status === "running") new Ago(row.started).show(time);
  else {
    delete time.dataset.since;
    setText(time, row.started && row.ended ? took(row.ended - row.started) : "");
  }
  setText(pid, row.pid);
  setText(exit, row.exitcode);
  const buttons = isReadOnly() ? [] : processButtons(row);
  const signature = buttons.map(([text]) => text).join();
  if (actions.firstChild.dataset.signature !== signature) {
    actions.firstChild.dataset.signature = signature;
    actions.firstChild.replaceChildren(...buttons.map(([text, handler, tone]) => button(text, `${text} ${row.name}`, handler, tone)));
  }
}

export const took = (seconds) => (seconds < 60 ? `${Math.max(0, seconds).toFixed(1)} s` : span(seconds));

/** The buttons that a process has, by its state: text, what it does, and its look. */
export function processButtons(row) {
  if (row.status === "running") return [["Terminate", () => terminate(row, grace), "danger"], ["Kill", () => kill(row), "danger"]];
  if (row.status === "submitted") return [["Terminate", () => terminate(row, grace), "danger"]];
  return [["Forget", () => forget(row), ""]];
}

// Queues

let charts = new Map();

export function showQueues(namespaces, history) {
  const queues = namespaces.flatMap((one) => one.queues);
  sync(byId("queue-rows"), queues, (queue) => queue.path,
    (queue) => make("tr", {}, make("td", {}, make("span", { class: "name" }, queue.path), make("span", { class: "hint" })), make("td", { class: "number depth", "data-label": "depth" }), make("td", { class: "chart" }, makeChart()), make("td", { class: "number", "data-label": "waiting" }), make("td", { class: "number", "data-label": "unfinished" }), make("td", { class: "number", "data-label": "dead" })),
    (element, queue) => {
      const [name, depth, , waiting, unfinished, dead] = element.children;
      const about = [queue.type === "Queue" ? "" : queue.type, queue.maxsize ? `at most ${count(queue.maxsize)}` : "", queue.shut_down ? "shut down" : ""].filter(Boolean).join(", ");
      setText(name.children[1], about && ` ${about}`);
      setText(depth, count(queue.depth));
      setText(waiting, count(queue.waiters));
      setText(unfinished, count(queue.unfinished));
      setText(dead, count(queue.dead));
      setClass(dead, queue.dead ? "number problem" : "number");
    });
  charts = new Map(queues.map((queue) => [queue.path, null]));
  for (const row of byId("queue-rows").children) charts.set(row.dataset.key, row.querySelector("svg"));
  const left = sum(namespaces.map((one) => one.left_out.queues));
  setText(byId("queue-note"), queues.length === 0 ? "There are no queues." : left ? `${many(left, "more queue")} not shown.` : "");
  drawCharts(history);
}

export function drawCharts(history) {
  for (const [path, chart] of charts) if (chart) draw(chart, history.get(path) ?? [], now());
}

// Namespaces

export function showNamespaces(namespaces) {
  const shown = byId("hidden-too").checked ? namespaces : plain(namespaces);
  sync(byId("namespace-cards"), shown, (one) => one.name,
    (one) => make("article", { class: "card", "aria-label": one.name }, make("div", { class: "card-head" }, make("span", { class: "name" }, one.name), make("span", { class: "hint" })), make("div", { class: "bar", role: "meter", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `fullness of ${one.name}` }, make("span")), make("dl", { class: "facts" })),
    (card, one) => {
      const [head, bar, facts] = card.children;
      if (one.error) {
        setText(head.children[1], "cannot be read");
        setFacts(facts, [["error", [one.error, "bad"]]]);
        return;
      }
      const part = (100 * one.used) / one.limit;
      setText(head.children[1], `${share(one)} full`);
      setClass(bar, `bar ${level(one)}`);
      bar.setAttribute("aria-valuenow", part.toFixed(1));
      bar.firstChild.style.width = `${Math.min(100, part)}%`; // by the object model, which the content security policy allows
      const oldest = one.snapshots.find((snapshot) => snapshot.since !== null);
      const kinds = Object.entries(one.kinds).map(([kind, number]) => many(number, kind, kind === "process" ? "processes" : `${kind}s`)).join(", ");
      setFacts(facts, [
        ["used", `${bytes(one.used)} of ${bytes(one.limit)}`],
        ["file", bytes(one.file)],
        ["durability", one.level],
        ["objects", kinds || "none"],
        ["commits", count(one.commits)],
        ["last commit", one.committed === null ? "unknown" : new Ago(one.committed, " ago")],
        ["waiting", one.waiting ? waitersText(one) : "nobody"],
        ["reading", one.reading ? many(one.reading, "snapshot") : "nobody"],
        ["oldest", oldest ? new Ago(oldest.since, `, process ${oldest.pid}`, now() - oldest.since > 600 && oldest.since < one.committed ? "warn" : "") : null],
      ]);
    });
  if (!shown.length) byId("namespace-cards").replaceChildren(make("p", { class: "note" }, "There are no namespaces."));
}

/** Say who waits for what. */
function waitersText({ waiters, waiting }) {
  const by = new Map();
  for (const waiter of waiters) {
    const key = `${waiter.path} (${waiter.events.join(", ")})`;
    by.set(key, [...(by.get(key) ?? []), waiter.pid]);
  }
  const texts = [...by].map(([what, pids]) => `${what}: ${pids.length > 4 ? `${pids.length} times` : pids.map((pid) => pid ?? "dead").join(", ")}`);
  return [...texts, ...(waiting > waiters.length ? [`${count(waiting - waiters.length)} more`] : [])].join("; ");
}
