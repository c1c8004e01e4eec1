// The depth of a queue over time: steps, as a depth stays what it is until something happens.

const SVG = "http://www.w3.org/2000/svg";
const LONGEST = 300; // seconds that are shown, once as much is known
const SHORTEST = 30;
const WIDTH = 300;
const HEIGHT = 30;

/** Make an empty chart. */
export function makeChart() {
  const chart = document.createElementNS(SVG, "svg");
  chart.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  chart.setAttribute("preserveAspectRatio", "none");
  chart.setAttribute("role", "img");
  chart.classList.add("spark");
  for (const name of ["area", "steps"]) {
    const path = document.createElementNS(SVG, "path");
    path.classList.add(name);
    chart.append(path);
  }
  return chart;
}

/** Draw the points, pairs of moment and depth, of the last minutes. */
export function draw(chart, points, now) {
  if (!points.length) return;
  const width = Math.min(LONGEST, Math.max(SHORTEST, now - points[0][0]));
  const begin = now - width;
  let first = points.findLastIndex(([when]) => when <= begin);
  if (first < 0) first = 0;
  const shown = points.slice(first);
  const most = Math.max(1, ...shown.map(([, depth]) => depth));
  const x = (when) => Math.min(WIDTH, Math.max(0, ((when - begin) / width) * WIDTH)).toFixed(1);
  const y = (depth) => (HEIGHT - 1 - (depth / most) * (HEIGHT - 3)).toFixed(1);
  let line = `M${x(shown[0][0])} ${y(shown[0][1])}`;
  for (const [when, depth] of shown.slice(1)) line += `H${x(when)}V${y(depth)}`;
  line += `H${WIDTH}`;
  chart.querySelector(".steps").setAttribute("d", line);
  chart.querySelector(".area").setAttribute("d", `${line}V${HEIGHT}H${x(shown[0][0])}Z`);
  chart.setAttribute("aria-label", `now ${shown.at(-1)[1]}, at most ${most === 1 ? Math.max(...shown.map(([, depth]) => depth)) : most}`);
}
