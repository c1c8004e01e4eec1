// Making and changing elements. Text is only ever set as text: nothing here, nor anywhere else, parses HTML.

export const byId = (id) => document.getElementById(id);

/** Make an element: attributes and properties, then children, each an element or text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set an element's text, if it is another one: whoever has selected it, or has it read aloud, is not disturbed. */
export function setText(element, text) {
  const shown = text === null || text === undefined ? "" : String(text);
  if (element.textContent !== shown) element.textContent = shown;
}

/** Set an element's classes, if they are others. */
export function setClass(element, name) {
  if (element.className !== name) element.className = name;
}

/** Have a parent hold one element for each item, in order. An element stays with its key, so focus and selection stay, too. */
export function sync(parent, items, key, build, update) {
  const before = new Map();
  for (const child of parent.children) before.set(child.dataset.key, child);
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let child = before.get(name);
    if (child === undefined) {
      child = build(item);
      child.dataset.key = name;
    }
    before.delete(name);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update?.(child, item);
  }
  for (const child of before.values()) child.remove();
}

/** Replace the pairs of a definition list. A value is a text, or a pair of text and class. */
export function setFacts(list, facts) {
  const shown = facts.filter(([, value]) => value !== null && value !== undefined);
  sync(list, shown.flatMap(([name, value]) => [{ id: `t:${name}`, tag: "dt", value: name }, { id: `d:${name}`, tag: "dd", value }]),
    (item) => item.id, (item) => make(item.tag), (element, { value }) => {
      if (value instanceof Ago) value.show(element);
      else {
        delete element.dataset.since;
        setText(element, Array.isArray(value) ? value[0] : value);
        setClass(element, Array.isArray(value) ? value[1] ?? "" : "");
      }
    });
}

// Time goes on here, not on the wire: what has a beginning is given as a moment, and counted by the page.

let offset = 0;

/** Tell what time it is in the store's machine, in seconds. */
export const setClock = (seconds) => { offset = seconds - Date.now() / 1000; };

export const now = () => Date.now() / 1000 + offset;

/** A span that goes on, shown in an element. */
export class Ago {
  constructor(since, suffix = "", name = "") { Object.assign(this, { since, suffix, name }); }

  show(element) {
    element.dataset.since = this.since;
    element.dataset.suffix = this.suffix;
    setClass(element, this.name);
    setText(element, span(now() - this.since) + this.suffix);
  }
}

/** Show what time it is in everything that goes on. */
export function tick() {
  for (const element of document.querySelectorAll("[data-since]")) setText(element, span(now() - Number(element.dataset.since)) + (element.dataset.suffix ?? ""));
}

/** Say a span of seconds by its two largest units. */
export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  for (const [size, unit, smaller, smallerUnit] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (whole >= size) return `${Math.floor(whole / size)} ${unit} ${Math.floor((whole % size) / smaller)} ${smallerUnit}`;
  }
  return "";
}

export const count = (number) => Number(number).toLocaleString("en");

export const many = (number, word, plural = `${word}s`) => `${count(number)} ${number === 1 ? word : plural}`;

export function bytes(number) {
  if (number < 1024) return `${number} B`;
  let value = number;
  for (const unit of ["KiB", "MiB", "GiB", "TiB"]) {
    value /= 1024;
    if (value < 1023.95 || unit === "TiB") return `${value.toFixed(1)} ${unit}`;
  }
  return "";
}

/** Say when: the time of day, with the date if that was another day. */
export function moment(seconds) {
  const when = new Date(seconds * 1000);
  const time = when.toLocaleTimeString("en-GB");
  return when.toDateString() === new Date().toDateString() ? time : `${when.toLocaleDateString("sv")} ${time}`;
}
