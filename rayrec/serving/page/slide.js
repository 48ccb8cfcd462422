// One video of the feed: its cover, its clip, its buttons, and why it is in the feed.

import { loadable, release } from "./api.js";
import { $, element, hueOfText, hueOfTopic, nameOfTopic, percent, prefersStill } from "./dom.js";
import { menuFor, reasonOf } from "./feedback.js";
import { Look } from "./look.js";
import { Clip, sound } from "./player.js";

// A video counts as clicked when it has been watched for so long (or half of a shorter clip), tapped, or liked.
const CLICK_S = 3;

// Why a video is in the feed that no topic brought.
const SENTENCES = {
  popular: "Many people click this video.",
  new: "This video is new: few people have seen it yet.",
  similar: "People who click what you clicked also click this video.",
  taste: "It is close to what you have clicked so far.",
  again: "You have seen everything else, and this video longest ago.",
};

export class Slide {
  clicked = false;
  liked = false;
  #cover = null;

  // `record(kind, more)` is called with each event; `toggleSound()`, `skip()` and `like()` when a button is pressed, and
  // `wish(slide, kind)` when an entry of the menu is chosen.
  constructor(video, page, { record, toggleSound, skip, like, wish }) {
    this.video = video;
    this.page = page; // the answer that contained the video, and its user
    this.title = video.title || video.video_id;
    this.record = record;
    this.node = $("slide").content.firstElementChild.cloneNode(true);
    this.node.dataset.video = video.video_id;
    this.#write();
    this.#draw();
    if (video.cover) this.look = new Look(this.node, video.video_id, page.user, (on) => this.#looked(on));
    this.find(".tap").addEventListener("click", () => this.tap(toggleSound));
    this.find(".tap").addEventListener("dblclick", () => like(this));
    this.find(".sound").addEventListener("click", toggleSound);
    this.find(".like").addEventListener("click", () => like(this));
    this.find(".skip").addEventListener("click", () => skip(this));
    this.find(".less").addEventListener("click", () => this.toggleMenu());
    this.find(".menu").append(...menuFor(video, (kind) => wish(this, kind)));
    this.find(".menu").addEventListener("keydown", (event) => event.key === "Escape" && this.toggleMenu(false));
    this.find(".pause").addEventListener("click", () => this.togglePlay());
    this.find(".why").addEventListener("click", () => this.toggleReasons());
  }

  find(selector) {
    return this.node.querySelector(selector);
  }

  // --- near, in view, removed ---

  async near() {
    this.clip?.load();
    if (this.#cover || !this.video.cover) return;
    this.#cover = loadable(this.video.cover);
    try {
      const source = await this.#cover;
      for (const image of this.node.querySelectorAll(".cover, .backdrop")) image.src = source;
      this.find(".cover").decode().then(() => this.node.classList.add("covered"), () => {});
    } catch {
      this.#cover = null; // the gradient stays
    }
  }

  far() {
    this.clip?.unload();
  }

  enter() {
    this.near();
    if (!prefersStill()) this.clip?.play();
    this.showState();
  }

  leave() {
    this.clip?.pause();
    this.look?.show(false);
    this.toggleReasons(false);
    this.toggleMenu(false);
    this.recordWatched();
  }

  remove() {
    this.far();
    this.#cover?.then(release, () => {});
    this.node.remove();
  }

  // --- what the user does ---

  tap(toggleSound) {
    this.click();
    this.look?.show(false);
    if (this.clip && !this.clip.playing) this.clip.play();
    else if (this.clip) toggleSound();
    if (!this.clip) this.node.classList.add("opened");
    this.showState();
  }

  togglePlay() {
    this.look?.show(false);
    if (this.clip?.playing) this.clip.pause();
    else this.clip?.play();
    this.showState();
  }

  toggleReasons(open = this.find(".reasons").hidden) {
    this.find(".reasons").hidden = !open;
    this.find(".why").setAttribute("aria-expanded", open);
    if (!open) return;
    this.look?.offer();
    this.toggleMenu(false);
  }

  // What the user may want less of. The focus goes into the menu, and back to its button.
  toggleMenu(open = this.find(".menu").hidden) {
    const [menu, button] = [this.find(".menu"), this.find(".less")];
    if (open === !menu.hidden) return;
    const inside = menu.contains(document.activeElement);
    menu.hidden = !open;
    button.setAttribute("aria-expanded", open);
    if (open) {
      this.toggleReasons(false);
      menu.firstElementChild.focus({ preventScroll: true });
    } else if (inside) {
      button.focus();
    }
  }

  // The cover is under the reasons, and under the clip.
  #looked(on) {
    if (!on) return;
    this.clip?.pause();
    this.showState();
    this.toggleReasons(false);
    this.find(".why").focus();
  }

  click() {
    if (this.clicked) return;
    this.clicked = true;
    this.record(this, "click");
  }

  like() {
    if (this.liked) return false;
    this.liked = true;
    this.find(".like").setAttribute("aria-pressed", "true");
    this.node.classList.add("liked");
    this.click();
    this.record(this, "like");
    return true;
  }

  recordWatched() {
    const seconds = this.clip?.take() ?? 0;
    if (seconds >= 0.1) this.record(this, "watch", { watch_s: Math.round(100 * seconds) / 100 });
  }

  showState() {
    const playing = this.clip?.playing;
    this.node.classList.toggle("paused", Boolean(this.clip) && !playing);
    this.find(".sound").setAttribute("aria-pressed", sound.on);
    this.find(".pause").setAttribute("aria-label", playing ? "Pause" : "Play");
    const does = playing ? (sound.on ? "Sound off" : "Sound on") : this.clip ? "Play" : "Open";
    this.find(".tap").setAttribute("aria-label", `${does}: ${this.title}`);
    if (this.clip) this.clip.video.muted = !sound.on;
  }

  // --- appearance ---

  #write() {
    const { video, title } = this;
    const id = `slide-${crypto.randomUUID()}`;
    Object.assign(this.find("h2"), { textContent: title, id: `${id}-title` });
    this.node.setAttribute("aria-labelledby", `${id}-title`);
    this.node.setAttribute("aria-describedby", `${id}-why`);
    this.node.style.setProperty("--hue", hueOfText(video.video_id));
    this.find(".name").textContent = title;
    this.find(".byline").textContent = [video.author_id, video.primary_class].filter(Boolean).join(" · ");
    this.find(".tags").textContent = video.tags.slice(0, 5).map((tag) => `#${tag}`).join(" ");
    Object.assign(this.find(".why"), { id: `${id}-why` }).setAttribute("aria-controls", `${id}-reasons`);
    this.find(".reasons").id = `${id}-reasons`;
    this.find(".like").setAttribute("aria-label", `Like ${title}`);
    this.find(".skip").setAttribute("aria-label", `Skip ${title}`);
    this.find(".menu").id = `${id}-menu`;
    this.find(".less").setAttribute("aria-controls", `${id}-menu`);
    this.find(".less").setAttribute("aria-label", `Less like ${title}`);
    this.#explain();
  }

  #explain() {
    const { topic, topics, about, score } = this.video;
    const why = about ? `Found for ${about}` : this.video.why; // a video that was searched for
    const words = topics.find((each) => each.topic === topic)?.words;
    const name = topic == null ? why : nameOfTopic(topic, words) || why;
    this.find(".why-text").textContent = topic == null ? why : name;
    const sentence = about ? `You searched for ${about}.` :
      SENTENCES[why] ?? `You recently clicked videos about ${name}.`;
    const near = topics.map((each) => {
      const bar = element("span", { class: "bar", "aria-hidden": "true" });
      bar.style.setProperty("--share", each.similarity);
      const row = element("li", {}, element("span", { class: "words", text: nameOfTopic(each.topic, each.words) }), element("span", { text: percent(each.similarity) }), bar);
      row.style.setProperty("--hue", hueOfTopic(each.topic));
      return row;
    });
    this.find(".why").style.setProperty("--hue", topic == null ? 0 : hueOfTopic(topic));
    this.find(".why").classList.toggle("plain", topic == null);
    this.find(".reasons").append(
      element("p", { text: sentence }),
      ...(reasonOf(this.video) ? [element("p", { class: "moved", text: reasonOf(this.video) })] : []),
      element("p", { class: "chance" }, element("span", { text: about ? "How near it is to that" : "Probability that you click it" }), element("b", { text: percent(score, 1) })),
      ...(near.length ? [element("p", { class: "quiet", text: "How well it matches its topics" }), element("ul", {}, ...near)] : []),
    );
  }

  #draw() {
    const video = this.find("video");
    if (!this.video.file) {
      video.remove();
      this.node.classList.add("still");
      return;
    }
    this.clip = new Clip(video, this.video.file, {
      watched: (seconds, duration) => {
        this.find(".progress").style.setProperty("--share", duration ? video.currentTime / duration : 0);
        if (seconds >= Math.min(CLICK_S, duration / 2)) this.click();
      },
      failed: () => {
        this.node.classList.add("failed");
        this.find(".trouble").hidden = false;
      },
    });
  }
}
