// The feed: requests pages, arranges their videos in a column, plays the one in view, and reports what the user does with it. After a
// like, a skip or a wish for less it requests a page at once, whose videos come next, before those that are waiting. Of the waiting
// ones, those go of which less is wanted.

import { get, post } from "./api.js";
import { $, element, icon, prefersStill } from "./dom.js";
import { acknowledge, DID, hide, hitBy, showFeedback } from "./feedback.js";
import { musicFor, startMusic, stopMusic } from "./music.js";
import { Outbox } from "./outbox.js";
import { panelIsOver, startPanel } from "./panel.js";
import { sound } from "./player.js";
import { searchIsOpen, startSearch } from "./search.js";
import { Slide } from "./slide.js";
import { onViewer, startViewer, viewer } from "./viewer.js";
import { Views } from "./views.js";
import { forgetWeights, showWeights } from "./weights.js";

const PAGE = 4; // small, so that the user's latest actions soon take effect
const MIN_AHEAD = 3; // if fewer videos are waiting, the next page is requested
const MAX_AHEAD = 12; // videos that newer answers push further back are removed
const MAX_BEHIND = 20;
const MAX_ACTIVITY = 6; // lines under "Just now"
const SETTLED_MS = 80; // after the last scrolling
const RETRY_MS = 3000;

const feed = $("feed");
const slides = new Map(); // node -> Slide
let current = null;
let asking = null; // the request in progress
let follow = false; // whether the user's actions call for another page
let ended = false;
let session = newSession();
let unwanted = []; // tells which videos are no longer wanted, by what was said since the last request
let moveOn = false; // whether the next slide is to come into view as soon as there is one

const outbox = new Outbox({ sent: showUser, refused: (error) => say(error.message, true) });

const views = new Views(feed, outbox, (slide, more) => outbox.add(eventOf(slide, "view", more)));

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
  unwanted = [];
  feed.setAttribute("aria-busy", "true");
  try {
    await outbox.flush(); // so that the answer takes the latest clicks into account
    const started = performance.now();
    const page = await post("/v1/recommend", { user_id: user, k: PAGE, session_id: session.id, page_number: session.pages++ });
    if (user !== viewer()) return;
    showAnswer(page, performance.now() - started);
    place({ ...page, user }, next);
  } catch (error) {
    if (user !== viewer()) return;
    say(error.message, true);
    if (error.transient) setTimeout(ask, RETRY_MS);
  } finally {
    feed.setAttribute("aria-busy", "false");
  }
}

function place(page, next) {
  const wanted = page.videos.filter((video) => !unwanted.some((isIt) => isIt(video)));
  const made = wanted.map((video) => new Slide(video, page, actions));
  const nodes = made.map((slide) => slide.node);
  made.forEach(add);
  if (!page.videos.length && !ended) {
    ended = true;
    nodes.push(theEnd());
  }
  for (const node of nodes) node.inert = true; // until it comes into view
  if (next && current && !ended) {
    // What is in view must not move: during a swipe the next slide stays where it is.
    const settled = Math.abs(current.node.offsetTop - feed.scrollTop) < 2;
    (settled ? current.node : (current.node.nextElementSibling ?? current.node)).after(...nodes);
  } else {
    feed.append(...nodes);
  }
  if (!current && feed.firstElementChild) settle();
  else nearby();
  if (moveOn && nodes.length) {
    moveOn = false;
    go(1);
  }
}

function add(slide) {
  slides.set(slide.node, slide);
  views.watch(slide);
}

// One visit of one user, which the log tells apart from others.
function newSession() {
  return { id: crypto.randomUUID(), pages: 0 };
}

// A video that was found comes right after the one in view, and into view.
function open(video, about) {
  const slide = new Slide({ ...video, about, topic: null }, { user: viewer() }, actions);
  slide.node.inert = true;
  add(slide);
  if (current) current.node.after(slide.node);
  else feed.prepend(slide.node);
  go(1);
  if (!current) settle();
}

// What lies under the results of a search is still.
function covered(isOpen) {
  for (const id of ["feed", "steps"]) $(id).inert = isOpen;
  views.hide(isOpen || document.hidden);
  if (isOpen) current?.clip?.pause();
  else if (!prefersStill()) current?.clip?.play();
  current?.showState?.();
}

function theEnd() {
  const text = [element("h2", { text: "You have reached the end" }), element("p", { class: "quiet", text: "There is no video that may be shown now." })];
  return element("article", { class: "slide end", tabindex: "-1" }, icon("end"), ...text);
}

function restart() {
  leave();
  for (const slide of slides.values()) {
    views.forget(slide);
    slide.remove();
  }
  outbox.flush();
  session = newSession();
  feed.replaceChildren();
  slides.clear();
  $("activity").replaceChildren();
  forgetWeights();
  hide();
  [current, follow, ended, moveOn] = [null, false, false, false];
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
  musicFor(current.video);
  if (moved && document.activeElement === document.body) node.focus({ preventScroll: true });
  else if (current.title) $("announced").textContent = current.title;
  while ([...feed.children].indexOf(node) > MAX_BEHIND) discard(feed.firstElementChild);
  feed.scrollTo({ top: node.offsetTop, behavior: "instant" });
  nearby();
}

function leave() {
  if (current) current.node.inert = true;
  current?.leave?.();
  stopMusic();
  outbox.flush();
}

// Loads media only for the video in view and its neighbours, and keeps enough videos waiting.
function nearby() {
  const nodes = [...feed.children];
  const here = nodes.indexOf(current?.node);
  nodes.slice(here + 1 + MAX_AHEAD).filter((node) => slides.get(node)).forEach(discard);
  nodes.forEach((node, place) => (Math.abs(place - here) <= 1 ? slides.get(node)?.near() : slides.get(node)?.far()));
  $("previous").disabled = here <= 0;
  $("next").disabled = here >= feed.children.length - 1;
  if (!ended && feed.children.length - 1 - here < MIN_AHEAD) ask();
}

function discard(node) {
  const slide = slides.get(node);
  if (slide) views.forget(slide);
  slide?.remove();
  slides.delete(node);
  node.remove();
}

let goal = null; // the slide that keys and buttons have chosen, until the scrolling ends

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

function eventOf(slide, kind, more) {
  const { user, request_id, arm } = slide.page;
  return { user_id: user, video_id: slide.video.video_id, kind, request_id, arm, ...more };
}

function record(slide, kind, more = {}) {
  outbox.add(eventOf(slide, kind, more));
  const did = { click: "Clicked", like: "Liked", skip: "Skipped", watch: `Watched ${more.watch_s?.toFixed(1)} s`, ...DID }[kind];
  const line = element("li", {}, icon(DID[kind] ? "less" : kind), element("span", { class: "did", text: did }), element("span", { class: "what", text: slide.title }));
  $("activity").prepend(line);
  [...$("activity").children].slice(MAX_ACTIVITY).forEach((old) => old.remove());
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
  record(slide, "skip");
  go(1);
  askNext();
}

// Less of something, or a block.
function wish(slide, kind) {
  const { video } = slide;
  slide.toggleMenu(false);
  slide.node.classList.add("skipped");
  record(slide, kind);
  const isIt = hitBy(video, kind);
  unwanted.push(isIt);
  for (const [node, { video: other }] of [...slides]) {
    const ahead = slide.node.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING;
    if (ahead && isIt(other)) discard(node);
  }
  acknowledge(video, kind, () => undo({ ...video, title: slide.title }));
  moveOn = !slide.node.nextElementSibling;
  if (!moveOn) go(1);
  askNext();
}

function undo(video) {
  hide();
  record({ video, page: { user: viewer() }, title: video.title || video.video_id }, "undo");
  askNext();
}

const actions = { record, toggleSound, skip, like, wish };

function toggleSound() {
  sound.on = !sound.on;
  if (sound.on) stopMusic();
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
  x: () => current?.toggleMenu?.(),
  m: toggleSound,
  w: () => current?.toggleReasons?.(),
  f: () => $("words").focus(),
  " ": () => current?.togglePlay?.(),
};

addEventListener("keydown", (event) => {
  const pressed = event.key.length > 1 ? event.key : event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, dialog") || panelIsOver() || searchIsOpen()) return;
  if (pressed === " " && event.target.closest("button, a, summary")) return;
  if (pressed.length === 1 && pressed !== " " && !$("letters").checked) return;
  if (!KEYS[pressed] || (event.repeat && !["ArrowDown", "ArrowUp", "j", "k"].includes(pressed))) return;
  event.preventDefault();
  KEYS[pressed]();
});

// --- what is shown beside the feed ---

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
  if (!known || user !== viewer()) return;
  showWeights(known);
  showFeedback(known, undo);
}

// A page in the background does not play, and may never return.
document.addEventListener("visibilitychange", () => {
  views.hide(document.hidden || searchIsOpen());
  if (document.hidden) {
    current?.clip?.pause();
    current?.recordWatched?.();
    outbox.leave();
  } else if (!prefersStill()) {
    current?.clip?.play();
  }
  current?.showState?.();
});
addEventListener("pagehide", () => {
  views.hide(true);
  current?.recordWatched?.();
  outbox.leave();
});

$("previous").addEventListener("click", () => go(-1));
$("next").addEventListener("click", () => go(1));
$("letters").checked = localStorage.getItem("letters") !== "off"; // single-letter keys interfere with speech input
$("letters").addEventListener("change", () => localStorage.setItem("letters", $("letters").checked ? "on" : "off"));
startPanel();
startSearch({ open, changed: covered });
onViewer(restart);
startViewer().then(({ tracks }) => tracks && startMusic(toggleSound));
showUser();
ask();
