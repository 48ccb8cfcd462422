// CTR over time as an SVG: a line for the CTR, and faint columns behind it for the number of impressions.

import { element, percent, svg } from "./dom.js";

const HOUR = 3_600_000;
const [LEFT, RIGHT, TOP, BOTTOM] = [48, 12, 14, 28];
const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric" });

// `traffic`: [{at, impressions, clicks}] by hour; hours without impressions may be missing. Draws the 24 hours up to `now`, in pixels.
export function chart(traffic, now, width, height) {
  const last = Math.floor(now / HOUR) * HOUR;
  const first = last - 23 * HOUR;
  const points = traffic.filter((each) => each.at >= first && each.impressions).map((each) => ({ ...each, ctr: each.clicks / each.impressions }));
  const top = roundUp(Math.max(0.02, ...points.map((point) => point.ctr)));
  const digits = [1, 2, 3].every((line) => isWhole((100 * top * line) / 4)) ? 0 : 1;
  const busiest = Math.max(1, ...points.map((point) => point.impressions));
  [width, height] = [Math.max(width, LEFT + RIGHT + 24), Math.max(height, TOP + BOTTOM + 24)]; // a page that is not laid out yet has none
  const step = (width - LEFT - RIGHT) / 24;
  const x = (at) => LEFT + step * ((at - first) / HOUR + 0.5);
  const y = (share) => height - BOTTOM - (height - TOP - BOTTOM) * share;

  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": summary(points) });
  for (let line = 0; line <= 4; line++) {
    const level = y(line / 4);
    drawn.append(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: level, y2: level }));
    drawn.append(svg("text", { x: LEFT - 8, y: level + 4, "text-anchor": "end" }, percent((top * line) / 4, digits)));
  }
  const apart = (width < 480 ? 6 : 4) * HOUR;
  for (let hour = first + 2 * HOUR; hour <= last; hour += apart) {
    drawn.append(svg("text", { x: x(hour), y: height - 8, "text-anchor": "middle" }, clock.format(hour)));
  }
  for (const point of points) {
    const tall = (0.4 * (height - TOP - BOTTOM) * point.impressions) / busiest;
    drawn.append(svg("rect", { class: "shown", x: x(point.at) - step * 0.35, y: height - BOTTOM - tall, width: step * 0.7, height: tall, rx: 3 }));
  }
  for (const run of runs(points)) {
    const way = run.map((point) => `${x(point.at).toFixed(1)},${y(point.ctr / top).toFixed(1)}`);
    drawn.append(svg("path", { class: "area", d: `M${x(run[0].at)},${y(0)}L${way.join("L")}L${x(run.at(-1).at)},${y(0)}Z` }));
    drawn.append(svg("path", { class: "line", d: `M${way.join("L")}` }));
  }
  for (const point of points) {
    const dot = svg("circle", { cx: x(point.at), cy: y(point.ctr / top), r: 3.5 });
    const column = svg("rect", { class: "touch", x: x(point.at) - step / 2, y: TOP, width: step, height: height - TOP - BOTTOM });
    const group = svg("g", { class: "point" });
    group.append(dot, column, svg("title", {}, labelOf(point)));
    drawn.append(group);
  }
  return drawn;
}

export function table(traffic) {
  const rows = traffic.map(({ at, impressions, clicks }) =>
    element("tr", {}, ...[clock.format(at), impressions, clicks, impressions ? percent(clicks / impressions, 1) : "–"].map((text) => element("td", { text }))),
  );
  const head = element("tr", {}, ...["Hour", "Shown", "Clicked", "CTR"].map((text) => element("th", { text, scope: "col" })));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

const labelOf = ({ at, ctr, impressions, clicks }) => `${clock.format(at)}: ${percent(ctr, 1)}, ${clicks} of ${impressions} clicked`;

function summary(points) {
  if (!points.length) return "CTR by hour: nothing was shown in the last 24 hours";
  const all = points.map((point) => point.ctr);
  return `CTR by hour, between ${percent(Math.min(...all), 1)} and ${percent(Math.max(...all), 1)}, ${percent(all.at(-1), 1)} in the last hour`;
}

// Groups consecutive hours: the line has gaps where nothing was shown.
function runs(points) {
  const found = [];
  for (const point of points) {
    if (found.length && point.at - found.at(-1).at(-1).at === HOUR) found.at(-1).push(point);
    else found.push([point]);
  }
  return found;
}

const isWhole = (number) => Math.abs(number - Math.round(number)) < 1e-9;

function roundUp(share) {
  const unit = 10 ** Math.floor(Math.log10(share));
  return [1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10].map((times) => times * unit).find((each) => each >= share - 1e-9);
}
