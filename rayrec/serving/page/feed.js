// The feed: asks for pages, puts their videos one below the other, plays the one in view, and tells what was done with it. After a like
// or a skip it asks at once, and what comes goes next, before what was waiting.

import { get, post } from "./api.js";
import { $, element, icon, prefersStill } from "./dom.js";
import { Outbox } from "./outbox.js";
import { panelIsOver, startPanel } from "./panel.js";
import { sound } from "./player.js";
import { Slide } from "./slide.js";
import { onViewer, startViewer, viewer } from "./viewer.js";
import { forgetWeights, showWeights } from "./weights.js";

const PAGE = 4; // small, so that what the user just did counts soon
const MIN_AHEAD = 3; // with fewer videos waiting, the next page is asked for
const MAX_AHEAD = 12; // those pushed back further by newer answers are dropped
const MAX_BEHIND = 20;
const MAX_TOLD = 6; // lines of "just now"
const SETTLED_MS = 80; // without scrolling
const AGAIN_MS = 3000;

const feed = $("feed");
const slides = new Map(); // node -> Slide
let current = null;
let asking = null; // the request in progress
let follow = false; // whether what the user did asks for one more
let ended = false;

const outbox = new Outbox({ sent: showUser, refused: (error) => say(error.message, true) });

// --- pages ---

function ask() {
  asking ??= askAnew().finally(() => {
    asking = null;
    if (follow && !ended) ask();
  });
  return asking;
}

async function askAnew() {
  const [user, next] = [viewer(), follow];
  follow = false;
  feed.setAttribute("aria-busy", "true");
  try {
    await outbox.flush(); // what was clicked counts for the answer
    const started = performance.now();
    const page = await post("/v1/recommend", { user_id: user, k: PAGE });
    if (user !== viewer()) return;
    showAnswer(page, performance.now() - started);
    place({ ...page, user }, next);
  } catch (error) {
    if (user !== viewer()) return;
    say(error.message, true);
    if (error.passing) setTimeout(ask, AGAIN_MS);
  } finally {
    feed.setAttribute("aria-busy", "false");
  }
}

function place(page, next) {
  const made = page.videos.map((video) => new Slide(video, page, { tell, toggleSound, skip, like }));
  const nodes = made.map((slide) => slide.node);
  for (const slide of made) slides.set(slide.node, slide);
  if (!nodes.length && !ended) {
    ended = true;
    nodes.push(theEnd());
  }
  for (const node of nodes) node.inert = true; // until it is in view
  if (next && current && !ended) {
    // Nothing may move that is in view: in the middle of a swipe the next slide stays where it is.
    const settled = Math.abs(current.node.offsetTop - feed.scrollTop) < 2;
    (settled ? current.node : (current.node.nextElementSibling ?? current.node)).after(...nodes);
  } else {
    feed.append(...nodes);
  }
  if (!current && feed.firstElementChild) settle();
  else nearby();
}

function theEnd() {
  const text = [element("h2", { text: "That was all" }), element("p", { class: "quiet", text: `${viewer()} has seen every video there is.` })];
  return element("article", { class: "slide end", tabindex: "-1" }, icon("end"), ...text);
}

function restart() {
  leave();
  for (const slide of slides.values()) slide.remove();
  feed.replaceChildren();
  slides.clear();
  $("told").replaceChildren();
  forgetWeights();
  [current, follow, ended] = [null, false, false];
  showUser();
  (asking ?? Promise.resolve()).then(ask);
}

// --- which one is in view ---

const nodeInView = () => feed.children[Math.round(feed.scrollTop / feed.clientHeight)];

function settle() {
  const node = nodeInView();
  if (!node || node === current?.node) return;
  const moved = current !== null;
  leave();
  current = slides.get(node) ?? { node };
  node.inert = false;
  current.enter?.();
  if (moved && document.activeElement === document.body) node.focus({ preventScroll: true });
  else if (current.title) $("announced").textContent = current.title;
  while ([...feed.children].indexOf(node) > MAX_BEHIND) drop(feed.firstElementChild);
  feed.scrollTo({ top: node.offsetTop, behavior: "instant" });
  nearby();
}

function leave() {
  if (current) current.node.inert = true;
  current?.leave?.();
  outbox.flush();
}

// Media only for what is in view and its neighbours, and enough videos ahead.
function nearby() {
  const nodes = [...feed.children];
  const here = nodes.indexOf(current?.node);
  nodes.slice(here + 1 + MAX_AHEAD).filter((node) => slides.get(node)).forEach(drop);
  nodes.forEach((node, place) => (Math.abs(place - here) <= 1 ? slides.get(node)?.near() : slides.get(node)?.far()));
  $("previous").disabled = here <= 0;
  $("next").disabled = here >= feed.children.length - 1;
  if (!ended && feed.children.length - 1 - here < MIN_AHEAD) ask();
}

function drop(node) {
  slides.get(node)?.remove();
  slides.delete(node);
  node.remove();
}

let goal = null; // where keys and buttons are going, before the scrolling ends

function go(step) {
  const from = goal ?? current?.node;
  const to = step > 0 ? from?.nextElementSibling : from?.previousElementSibling;
  if (!to) return;
  goal = to;
  if (feed.contains(document.activeElement)) document.activeElement.blur();
  feed.scrollTo({ top: to.offsetTop, behavior: prefersStill() ? "instant" : "smooth" });
}

let settling;
feed.addEventListener("scroll", () => {
  clearTimeout(settling);
  settling = setTimeout(() => {
    goal = null;
    settle();
  }, SETTLED_MS);
});
addEventListener("resize", () => current && feed.scrollTo({ top: current.node.offsetTop, behavior: "instant" }));

// --- what the user does ---

function tell(slide, kind, more = {}) {
  const { user, request_id, arm } = slide.page;
  outbox.add({ user_id: user, video_id: slide.video.video_id, kind, request_id, arm, ...more });
  const did = { click: "Clicked", like: "Liked", skip: "Skipped", watch: `Watched ${more.watch_s?.toFixed(1)} s` }[kind];
  const line = element("li", {}, icon(kind), element("span", { class: "did", text: did }), element("span", { class: "what", text: slide.title }));
  $("told").prepend(line);
  [...$("told").children].slice(MAX_TOLD).forEach((old) => old.remove());
  outbox.flush();
}

function askNext() {
  if (ended) return;
  follow = true;
  ask();
}

function like(slide) {
  if (slide.like()) askNext();
}

function skip(slide) {
  if (slide.skipped) return;
  slide.skipped = true;
  slide.node.classList.add("skipped");
  tell(slide, "skip");
  go(1);
  askNext();
}

function toggleSound() {
  sound.on = !sound.on;
  current?.showState?.();
}

const KEYS = {
  ArrowDown: () => go(1),
  PageDown: () => go(1),
  j: () => go(1),
  ArrowUp: () => go(-1),
  PageUp: () => go(-1),
  k: () => go(-1),
  l: () => current?.video && like(current),
  s: () => current?.video && skip(current),
  m: toggleSound,
  w: () => current?.toggleReasons?.(),
  " ": () => current?.togglePlay?.(),
};

addEventListener("keydown", (event) => {
  const pressed = event.key.length > 1 ? event.key : event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, dialog") || panelIsOver()) return;
  if (pressed === " " && event.target.closest("button, a, summary")) return;
  if (pressed.length === 1 && pressed !== " " && !$("letters").checked) return;
  if (!KEYS[pressed] || (event.repeat && !["ArrowDown", "ArrowUp", "j", "k"].includes(pressed))) return;
  event.preventDefault();
  KEYS[pressed]();
});

// --- what is shown beside ---

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function showAnswer(page, milliseconds) {
  $("answer").textContent = `bundle ${page.bundle}, ${page.arm}; ${page.videos.length} videos in ${Math.round(milliseconds)} ms`;
  say("");
}

async function showUser() {
  const user = viewer();
  const known = await get(`/v1/users/${encodeURIComponent(user)}`).catch((error) => say(error.message, true));
  if (known && user === viewer()) showWeights(known);
}

// A page in the background does not play, and may never come back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    current?.clip?.pause();
    current?.tellWatched?.();
    outbox.leave();
  } else if (!prefersStill()) {
    current?.clip?.play();
  }
  current?.showState?.();
});
addEventListener("pagehide", () => {
  current?.tellWatched?.();
  outbox.leave();
});

$("previous").addEventListener("click", () => go(-1));
$("next").addEventListener("click", () => go(1));
$("letters").checked = localStorage.getItem("letters") !== "off"; // single letters get in the way of speech input
$("letters").addEventListener("change", () => localStorage.setItem("letters", $("letters").checked ? "on" : "off"));
startPanel();
onViewer(restart);
startViewer();
showUser();
ask();
