// The search box: words, or a picture or a sound that is chosen or dropped. What is found lies over the feed until it is closed.

import { loadable, post, release } from "./api.js";
import { $, element, hueOfText, percent } from "./dom.js";

const MAX_FOUND = 24;
const MEDIA = /^(image|audio)\//;

let asked = 0; // so that a slow answer does not replace that of a later query
let sources = []; // of the covers that are shown

export const searchIsOpen = () => !$("found").hidden;

// `open(video, about)` is called when a result is chosen; `changed(isOpen)` when the results appear or go.
export function startSearch({ open, changed }) {
  const run = (body, about) => search(body, about, open, changed);
  const file = (chosen) => {
    if (!chosen) return;
    if (MEDIA.test(chosen.type)) run(chosen, `“${chosen.name}”`);
    else show(changed, "Only pictures and sounds can be searched by", []);
  };
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("words").value.trim();
    if (text) run({ text, k: MAX_FOUND }, `“${text}”`);
  });
  $("medium").addEventListener("change", () => {
    file($("medium").files[0]);
    $("medium").value = ""; // so that the same file can be chosen again
  });
  $("choose").addEventListener("click", () => $("medium").click());
  $("close-found").addEventListener("click", () => close(changed));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && searchIsOpen()) close(changed);
  });
  drops(file);
}

async function search(body, about, open, changed) {
  const turn = ++asked;
  $("search").setAttribute("aria-busy", "true");
  try {
    const path = body instanceof Blob ? `/v1/search?k=${MAX_FOUND}` : "/v1/search";
    const answer = await post(path, body);
    if (turn !== asked) return;
    const heading = answer.videos.length ? `Found for ${about}` : `Nothing like ${about} is here`;
    show(changed, heading, answer.videos, answer.tags, (video) => {
      close(changed, false);
      open(video, about);
    });
  } catch (error) {
    if (turn === asked) show(changed, error.message, []);
  } finally {
    if (turn === asked) $("search").setAttribute("aria-busy", "false");
  }
}

function show(changed, heading, videos, tags = [], choose = () => {}) {
  forget();
  $("found-title").textContent = heading;
  $("found-tags").textContent = tags.length && videos.length ? `Near to it: ${tags.map((tag) => `#${tag}`).join(" ")}` : "";
  $("found-list").replaceChildren(...videos.map((video) => result(video, choose)));
  $("found").hidden = false;
  $("found").scrollTop = 0;
  $("found-title").focus();
  changed(true);
}

function close(changed, goOn = true) {
  asked++;
  $("found").hidden = true;
  forget();
  if (goOn) $("words").focus();
  changed(false);
}

function forget() {
  sources.forEach((source) => source.then(release, () => {}));
  sources = [];
}

function result(video, choose) {
  const title = video.title || video.video_id;
  const image = element("img", { alt: "", loading: "lazy" });
  const button = element(
    "button",
    { type: "button", "data-video": video.video_id },
    image,
    element("span", { class: "what", text: title }),
    element("span", { class: "quiet", text: [video.author_id, percent(video.score)].filter(Boolean).join(" · ") }),
  );
  button.style.setProperty("--hue", hueOfText(video.video_id));
  button.addEventListener("click", () => choose(video));
  if (video.cover) {
    const source = loadable(video.cover);
    sources.push(source);
    source.then((found) => (image.src = found), () => {}); // without it the gradient stays
  }
  return element("li", {}, button);
}

// A file that is dragged over the page may be dropped anywhere on it.
function drops(file) {
  const hasFile = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    $("search").classList.add("dropping");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || $("search").classList.remove("dropping"));
  addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    $("search").classList.remove("dropping");
    file(event.dataTransfer.files[0]);
  });
}
