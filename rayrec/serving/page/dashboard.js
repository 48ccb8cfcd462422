// The dashboard: shows the answer of GET /v1/dashboard, refreshed every few seconds.

import { get, loadable } from "./api.js";
import { chart, table } from "./chart.js";
import { $, element, hueOfText, hueOfTopic, nameOfTopic, percent } from "./dom.js";
import { experimentOf } from "./experiments.js";

const REFRESH_MS = 5000;
const ABBREVIATIONS = { auc: "AUC", gauc: "GAUC", ndcg: "NDCG", expected_ctr: "expected CTR" };
const FIRST = 5; // videos shown of each queue, in one row
const covers = new Map(); // path -> promise of an <img> source
const images = new Map(); // topic and video -> node, reused so that covers don't flicker
const when = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

let numbers = null;

async function refresh() {
  try {
    if (!document.hidden) draw((numbers = await get("/v1/dashboard")));
  } catch (error) {
    $("age").textContent = error.message;
    $("age").classList.add("bad");
  }
  setTimeout(refresh, REFRESH_MS);
}

function draw({ arms, queues, traffic, ranker, metrics, swaps, experiments, refreshed_at: refreshed }) {
  $("age").textContent = `queues as of ${new Date(refreshed).toLocaleTimeString()}`;
  $("age").classList.remove("bad");
  drawTiles(traffic, ranker, metrics);
  $("hours").replaceChildren(table(traffic));
  $("arms").replaceChildren(...arms.map(armOf));
  $("swaps").replaceChildren(...swaps.toReversed().map(swapOf));
  $("no-swaps").hidden = swaps.length > 0;
  $("experiments").hidden = !experiments.length;
  $("standing").replaceChildren(...experiments.map(experimentOf)); // the node that scrolls stays
  drawQueues(queues);
  drawChart(traffic); // last, because it fills the space that the others leave
}

function drawChart(traffic) {
  const { clientWidth, clientHeight } = $("chart");
  $("chart").replaceChildren(chart(traffic, Date.now(), clientWidth, clientHeight));
}

// --- tiles ---

function drawTiles(traffic, ranker, metrics) {
  const sum = (name) => traffic.reduce((total, hour) => total + hour[name], 0);
  const [impressions, clicks] = [sum("impressions"), sum("clicks")];
  const day = [
    ["CTR, 24 h", impressions ? percent(clicks / impressions, 1) : "–"],
    ["Shown, 24 h", impressions.toLocaleString()],
    ["Clicked, 24 h", clicks.toLocaleString()],
  ];
  const offline = Object.entries(metrics).map(([name, value]) => [ABBREVIATIONS[name] ?? name.replaceAll("_", " "), numberOf(value)]);
  fill($("day"), day);
  fill($("metrics"), offline);
  $("no-metrics").hidden = !ranker || offline.length > 0;
  $("no-ranker").hidden = ranker;
}

function numberOf(value) {
  if (value === null) return "-"; // it is not defined
  return Number.isInteger(value) ? value.toLocaleString() : value.toFixed(4);
}

function fill(list, pairs) {
  list.replaceChildren(...pairs.map(([name, value]) => element("div", {}, element("dt", { text: name }), element("dd", { text: value }))));
}

// --- arms and swaps ---

function armOf({ arm, bundle, share }) {
  const bar = element("div", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", share);
  return element("li", { class: arm }, element("b", { text: arm }), element("span", { text: percent(share) }), element("code", { text: bundle }), bar);
}

function swapOf({ at, bundle, canary, share, outcome }) {
  const trial = canary ? element("span", { class: "quiet", text: `canary ${canary} for ${percent(share)}` }) : "";
  return element(
    "li",
    {},
    element("time", { datetime: new Date(at).toISOString(), text: when.format(at) }),
    element("code", { text: bundle || "newest" }),
    trial,
    element("span", { class: outcome === "done" ? "outcome" : "outcome bad", text: outcome }),
  );
}

// --- queues ---

function drawQueues(queues) {
  const sought = $("find").value.trim().toLowerCase();
  const found = queues.filter(({ topic, words }) => !sought || `${topic} ${words.join(" ")}`.toLowerCase().includes(sought));
  $("queues").replaceChildren(...found.map(queueOf));
  $("queue-count").textContent = sought ? `${found.length} of ${queues.length}` : `the longest ${queues.length}`;
}

function queueOf({ topic, words, videos, first }) {
  const name = element("h3", {}, element("i", { "aria-hidden": "true" }), element("span", { text: nameOfTopic(topic, words) }));
  const head = element("header", {}, name, element("span", { class: "quiet", text: `${videos.toLocaleString()} ${videos === 1 ? "video" : "videos"}` }));
  const card = element("li", { class: "queue" }, head, element("ol", {}, ...first.slice(0, FIRST).map((video) => firstOf(topic, video))));
  card.style.setProperty("--hue", hueOfTopic(topic));
  return card;
}

function firstOf(topic, video) {
  const title = video.title || video.video_id;
  const ctr = video.exposures ? percent(video.ctr) : "new";
  const facts = `${title}: ${video.exposures ? `CTR ${percent(video.ctr, 1)}, shown ${video.exposures.toLocaleString()} times` : "not shown yet"}`;
  return element("li", { title: facts }, imageOf(topic, video), element("span", { class: "ctr", text: ctr }), element("span", { class: "unseen", text: facts }));
}

function imageOf(topic, { video_id: id, cover }) {
  const place = `${topic} ${id}`;
  if (images.has(place)) return images.get(place);
  const image = element("img", { alt: "", loading: "lazy" });
  const frame = element("span", { class: "frame" }, image);
  frame.style.setProperty("--hue", hueOfText(id));
  images.set(place, frame);
  if (cover) {
    if (!covers.has(cover)) covers.set(cover, loadable(cover));
    covers.get(cover).then((source) => Object.assign(image, { src: source }), () => covers.delete(cover));
  }
  return frame;
}

addEventListener("resize", () => numbers && drawChart(numbers.traffic));
$("find").addEventListener("input", () => numbers && drawQueues(numbers.queues));
refresh();
