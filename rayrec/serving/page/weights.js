// The weights of the user's topics: a bar for each topic that recall searches. Clicks make bars grow and change places.

import { $, element, hueOfTopic, nameOfTopic, percent, prefersStill } from "./dom.js";

const FLASH_MS = 1200;
const rows = new Map(); // topic -> {row, bar, number, gain, clicks}
let first = true; // the topics that a user begins with are not announced

export function forgetWeights() {
  rows.clear();
  first = true;
  $("weights").replaceChildren();
}

// Takes the answer of GET /v1/users/{id}.
export function showWeights({ topics, clicks }) {
  const sum = topics.reduce((total, topic) => total + topic.clicks, 0);
  const before = new Map([...rows].map(([topic, { row }]) => [topic, row.getBoundingClientRect().top]));
  const lines = topics.map((topic) => draw(topic, topic.clicks / sum));
  for (const topic of [...rows.keys()].filter((topic) => !topics.some((each) => each.topic === topic))) {
    rows.get(topic).row.remove();
    rows.delete(topic);
  }
  $("weights").append(...topics.map(({ topic }) => rows.get(topic).row)); // puts the rows in the order of the topics
  if (!prefersStill()) before.forEach(slide);
  $("no-weights").hidden = topics.length > 0;
  $("click-count").textContent = topics.length ? `from the last ${clicks} ${clicks === 1 ? "click" : "clicks"}` : "";
  if (!first && lines.some((line) => line.moved)) $("weights-announced").textContent = lines.map((line) => line.text).join(", ");
  first = false;
  [...$("spark").children].forEach((bar, place) => {
    const topic = topics[place];
    bar.style.setProperty("--share", topic ? Math.max(0.15, topic.clicks / topics[0].clicks) : 0.15);
    bar.style.setProperty("--hue", topic ? hueOfTopic(topic.topic) : 0);
  });
}

function draw({ topic, words, clicks }, share) {
  const name = nameOfTopic(topic, words);
  const known = rows.get(topic) ?? make(topic, name);
  const moved = known.clicks !== clicks;
  const { row, bar, number, gain } = known;
  number.textContent = percent(share);
  bar.setAttribute("aria-valuenow", Math.round(100 * share));
  // After two frames, so that a new bar grows from zero.
  requestAnimationFrame(() => requestAnimationFrame(() => bar.style.setProperty("--share", share)));
  if (moved && !first) {
    const more = clicks - (known.clicks ?? 0);
    gain.textContent = more > 0 ? `+${more}` : `${more}`;
    row.classList.add("moved");
    clearTimeout(known.timer);
    known.timer = setTimeout(() => row.classList.remove("moved"), FLASH_MS);
  }
  rows.set(topic, Object.assign(known, { clicks }));
  return { moved, text: `${name} ${percent(share)}` };
}

function make(topic, name) {
  const bar = element("div", { class: "bar", role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100 });
  const number = element("span", { class: "share" });
  const gain = element("span", { class: "gain", "aria-hidden": "true" });
  const row = element("li", { "data-topic": topic }, element("span", { class: "words", text: name }), gain, number, bar);
  row.style.setProperty("--hue", hueOfTopic(topic));
  return { row, bar, number, gain };
}

// Moves a row from its previous position to its new one.
function slide(top, topic) {
  const row = rows.get(topic)?.row;
  const way = row ? top - row.getBoundingClientRect().top : 0;
  if (way) row.animate([{ transform: `translateY(${way}px)` }, { transform: "none" }], { duration: 450, easing: "cubic-bezier(.2,.8,.2,1)" });
}
