// The page: one stream of states from the store, and panels that show the latest of each.

import { byId, now, setClass, setClock, setText, tick } from "./dom.js";
import { refresh, setReadOnly } from "./actions.js";
import { drawCharts, showNamespaces, showOverview, showPool, showProcesses, showQueues } from "./panels.js";
import { showLogs } from "./logs.js";
import { showDrawer } from "./drawer.js";
import { Stream } from "./streams.js";

const topics = new Map();
const history = new Map();
let drawing = false;

/** Draw soon: however many states come until then. */
export function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const store = topics.get("store") ?? { namespaces: [] };
    const pool = topics.get("pool");
    const namespaces = store.namespaces.map((name) => topics.get(`namespace:${name}`)).filter(Boolean);
    setText(byId("path"), store.path);
    byId("path").title = store.path ?? "";
    showBanner([store, pool ?? {}, ...namespaces].filter((document) => document.error));
    const sound = namespaces.filter((document) => !document.error);
    if (pool) showOverview(pool, sound);
    if (pool) showPool(pool);
    showProcesses(sound);
    showQueues(sound, history);
    showNamespaces(namespaces);
    showLogs(sound);
    showDrawer(sound);
  });
}

function showBanner(broken) {
  const banner = byId("banner");
  banner.hidden = broken.length === 0;
  setText(banner, broken.map((document) => (document.name ? `${document.name}: ${document.error}` : document.error)).join(" "));
}

function take(topic, state) {
  const there = new Set((state.queues ?? []).map((queue) => queue.path));
  for (const { path } of (state.queues && topics.get(topic)?.queues) ?? []) if (!there.has(path)) history.delete(path); // it was dropped
  topics.set(topic, state);
  for (const queue of state.queues ?? []) {
    const points = history.get(queue.path) ?? [];
    if (points.at(-1)?.[1] !== queue.depth) points.push([now(), queue.depth]);
    if (points.length > 3000) points.splice(0, 1000);
    history.set(queue.path, points);
  }
  redraw();
}

function say(state, text) {
  const connection = byId("connection");
  setClass(connection, `connection ${state}`);
  setText(connection, text);
}

/** Follow the store. The past of the queues, and what time it is there, come apart from its states. */
function connect() {
  new Stream("/events", {}, {
    open: () => loadPast().then(() => say("live", "live"), () => say("lost", "connection lost")),
    state: ({ topic, state }) => take(topic, state),
    lost: () => say("lost", "connection lost"),
    refused: again,
  });
}

async function loadPast() {
  const found = await (await fetch("/api/state")).json();
  setClock(found.now);
  setReadOnly(found.read_only);
  history.clear();
  for (const [path, points] of Object.entries(found.history)) history.set(path, points);
  redraw();
}

async function again() {
  const answer = await fetch("/api/state").catch(() => null);
  if (answer?.status === 401) over();
  else setTimeout(connect, 1000);
}

function over() {
  say("lost", "ended");
  const banner = byId("banner");
  banner.hidden = false;
  setText(banner, "This page is not let in any more: its token has expired. Have `parkit dashboard` started again, and open the address that it prints.");
}

// What only time changes. A page that nobody sees does nothing.
setInterval(() => {
  if (document.hidden) return;
  tick();
  drawCharts(history);
}, 1000);

byId("refresh").addEventListener("click", refresh);
for (const id of ["search", "hidden-too"]) byId(id).addEventListener("input", redraw);
document.addEventListener("parkit:redraw", redraw);

connect();
