// Experiments on the dashboard: what the users of each arm did, and how it compares with the control.

import { element, percent } from "./dom.js";

const HEAD = ["Arm", "Users", "Shown", "Clicked", "Watched"];

export function experimentOf(experiment) {
  const { name, running, until, arms, several, mismatch } = experiment;
  const state = running ? (until ? `until ${until}` : "running") : "over";
  const heading = element("h3", {}, element("span", { text: name }), element("small", { class: "quiet", text: state }));
  const notes = [];
  if (mismatch) notes.push(element("p", { class: "outcome bad", text: "The arms do not have their shares of the users, so no gain means anything. Find the cause first." }));
  if (several) notes.push(element("p", { class: "quiet", text: `${several.toLocaleString()} ${several === 1 ? "user was" : "users were"} in several arms and ${several === 1 ? "is" : "are"} left out.` }));
  return element("article", { class: "experiment" }, heading, ...notes, tableOf(arms));
}

function tableOf(arms) {
  const metrics = arms[0].metrics.map(({ metric }) => metric);
  const head = element("tr", {}, ...[...HEAD, ...metrics].map((text) => element("th", { text, scope: "col" })));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...arms.map(rowOf)));
}

function rowOf({ arm, users, impressions, clicks, watch_s: seconds, metrics }) {
  const counts = [users, impressions, clicks].map((count) => element("td", { text: count.toLocaleString() }));
  const watched = element("td", { text: `${Math.round(seconds).toLocaleString()} s` });
  return element("tr", {}, element("th", { text: arm, scope: "row" }), ...counts, watched, ...metrics.map(cellOf));
}

function cellOf({ value, gain, low, high, p_value: p, detectable }) {
  const cell = element("td", { text: value === null ? "–" : value.toPrecision(3) });
  if (gain === null) return cell;
  const decided = low > 0 || high < 0;
  cell.append(element("b", { class: decided ? "decided" : "", text: signed(gain) }));
  cell.append(element("small", { text: `${signed(low)} to ${signed(high)}, p ${p < 0.001 ? "< 0.001" : p.toFixed(3)}` }));
  cell.append(element("small", { text: decided ? "" : `can be found: ${signed(detectable)}` }));
  return cell;
}

const signed = (share) => `${share < 0 ? "−" : "+"}${percent(Math.abs(share), 1)}`;
