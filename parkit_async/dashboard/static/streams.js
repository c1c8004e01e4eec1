// Streams of events that are open only while the page is seen. A browser has six connections for each host, over all its tabs: pages in the background, or
// kept for the way back, would use them up.

const open = new Set();

export class Stream {
  /** Follow a path. `handlers` are called with the data of events by their names; `open` when it is, `lost` while it is not, `refused` when it will not be. */
  constructor(path, parameters, handlers) {
    Object.assign(this, { path, parameters, handlers, last: null, source: null });
    open.add(this);
    this.resume();
  }

  /** Go on where it was. */
  resume() {
    if (this.source !== null || document.hidden) return;
    const parameters = new URLSearchParams(this.parameters);
    if (this.last !== null) parameters.set("last", this.last);
    const source = new EventSource(`${this.path}?${parameters}`);
    this.source = source;
    for (const [name, handler] of Object.entries(this.handlers)) {
      if (["open", "lost", "refused"].includes(name)) continue;
      source.addEventListener(name, (event) => {
        if (this.source !== source) return; // it was left meanwhile
        if (event.lastEventId) this.last = event.lastEventId;
        handler(JSON.parse(event.data));
      });
    }
    source.addEventListener("open", () => this.handlers.open?.());
    source.addEventListener("error", () => {
      if (this.source !== source) return;
      this.handlers.lost?.();
      if (source.readyState === EventSource.CLOSED) {
        this.close();
        this.handlers.refused?.();
      }
    });
  }

  /** Let go of the connection. */
  pause() {
    this.source?.close();
    this.source = null;
  }

  /** End it. */
  close() {
    this.pause();
    open.delete(this);
  }
}

const pauseAll = () => { for (const stream of open) stream.pause(); };
const resumeAll = () => { for (const stream of open) stream.resume(); };

document.addEventListener("visibilitychange", () => (document.hidden ? pauseAll() : resumeAll()));
addEventListener("pagehide", pauseAll);
addEventListener("pageshow", resumeAll);
