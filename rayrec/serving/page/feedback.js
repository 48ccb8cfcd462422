// What the user wants less of: the entries of a slide's menu, the acknowledgement with its Undo, and the list in the side view.

import { $, element, icon, nameOfTopic } from "./dom.js";

const ACKNOWLEDGED_MS = 10_000;

const topicOf = ({ topics, topic, words }) => (topics ? topics[0] : topic == null ? null : { topic, words });
const topicName = (video) => nameOfTopic(topicOf(video).topic, topicOf(video).words);
const sameTopic = (video) => (other) => other.topics.some(({ topic }) => topic === topicOf(video).topic);
const sameAuthor = (video) => (other) => other.author_id === video.author_id;

// `label`: in the menu; `says`: what comes of it; `hits`: which of the waiting videos it is about. `video` has the fields of an answer
// of /v1/recommend, or those of `feedback` in an answer of /v1/users.
const WISHES = {
  not_interested: { label: () => "Not for me", says: (video) => `Fewer videos like “${video.title || video.video_id}”`, hits: (video) => (topicOf(video) ? sameTopic(video) : () => false) },
  less_topic: { needs: topicOf, label: (video) => `Less about ${topicName(video)}`, says: (video) => `Fewer videos about ${topicName(video)}`, hits: sameTopic },
  less_author: { needs: (video) => video.author_id, label: (video) => `Less of ${video.author_id}`, says: (video) => `Fewer videos of ${video.author_id}`, hits: sameAuthor },
  block_author: { needs: (video) => video.author_id, label: (video) => `Block ${video.author_id}`, says: (video) => `No videos of ${video.author_id}`, hits: sameAuthor },
};

export const DID = { not_interested: "Not for me", less_topic: "Less of topic", less_author: "Less of author", block_author: "Blocked author of", undo: "Undone" };

// The menu's buttons for a video; `chosen(kind)` is called when one is pressed.
export function menuFor(video, chosen) {
  const kinds = Object.entries(WISHES).filter(([, { needs }]) => !needs || needs(video));
  return kinds.map(([kind, { label }]) => {
    const button = element("button", { type: "button", class: kind, text: label(video) });
    button.addEventListener("click", () => chosen(kind));
    return button;
  });
}

// Tells which videos a wish is about.
export const hitBy = (video, kind) => WISHES[kind].hits(video);

// Why a video was moved up or down, in a sentence; "" if the user's feedback did not move it.
export function reasonOf({ feedback }) {
  if (!feedback) return "";
  const { kind, scope, factor } = feedback;
  const common = { topic: "on this topic", author: "of this author", near: "like it" }[scope];
  if (kind === "like") return factor > 1 ? `It comes earlier: you liked a video ${common}.` : "";
  return kind === "skip" ? `It comes later: you skipped a video ${common}.` : `It comes later: you asked for fewer videos ${common}.`;
}

let hiding;

// Says for a while what comes of a wish, with a button that takes it back.
export function acknowledge(video, kind, undo) {
  const button = element("button", { type: "button", text: "Undo" });
  button.addEventListener("click", () => {
    hide();
    undo();
  });
  $("wished").replaceChildren(element("span", { text: `${WISHES[kind].says(video)} from now on.` }), button);
  $("wished").hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(hide, ACKNOWLEDGED_MS);
}

export function hide() {
  clearTimeout(hiding);
  $("wished").hidden = true;
}

// Takes the answer of GET /v1/users/{id}; `undo(video)` is called when a wish is to be taken back.
export function showFeedback({ feedback = [] }, undo) {
  const wishes = feedback.filter(({ kind }) => WISHES[kind]);
  $("wishes").hidden = !wishes.length;
  $("wish-list").replaceChildren(...wishes.map((given) => line(given, undo)));
}

function line(given, undo) {
  const says = `${WISHES[given.kind].needs && !WISHES[given.kind].needs(given) ? DID[given.kind] : WISHES[given.kind].says(given)}, as you asked`;
  const button = element("button", { type: "button", class: "link", text: "Undo", "aria-label": `Undo: ${says}` });
  button.addEventListener("click", () => undo(given));
  return element("li", {}, icon("less"), element("span", { class: "what", text: says }), button);
}
