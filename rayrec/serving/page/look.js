// Where the user looks at a cover, by the attention of the user's kernels: all other places are darkened.

import { get } from "./api.js";
import { element, percent } from "./dom.js";

const DARK = 0.85; // of a place without attention
const PLACES = [["at the upper left", "at the top", "at the upper right"], ["on the left", "at the centre", "on the right"], ["at the lower left", "at the bottom", "at the lower right"]];

export class Look {
  #asked = null;
  #button = element("button", { class: "look", type: "button", "aria-pressed": "false", text: "Where you look" });
  #drawn = false;

  // `slide` is the node of a slide; `changed(on)` is called when the places are shown or hidden.
  constructor(slide, video, user, changed) {
    this.slide = slide;
    this.path = `/v1/videos/${encodeURIComponent(video)}/attention?user_id=${encodeURIComponent(user)}`;
    this.changed = changed;
    this.#button.addEventListener("click", () => this.show(!this.on));
  }

  get on() {
    return this.slide.classList.contains("looking");
  }

  // Adds the button to the reasons, if the ranker has kernels and knows the maps of the cover. It is left out if the call fails.
  async offer() {
    this.#asked ??= get(this.path);
    const { places } = await this.#asked.catch(() => ({}));
    if (places && !this.#button.isConnected) this.slide.querySelector(".reasons").append(this.#button);
  }

  async show(on) {
    if (on === this.on) return;
    if (on && !this.#drawn) {
      const [answer, cover] = [await this.#asked, this.slide.querySelector(".cover")];
      await cover.decode().catch(() => {});
      if (!cover.naturalWidth) return;
      draw(this.slide.querySelector(".places"), cover, answer);
      this.slide.querySelector(".looks").textContent = inWords(answer);
      this.#drawn = true;
    }
    this.slide.classList.toggle("looking", on);
    this.slide.querySelector(".looks").hidden = !on;
    this.#button.setAttribute("aria-pressed", on);
    this.changed(on);
  }
}

// The canvas is as large as the cover, so that both are laid out alike.
function draw(canvas, cover, { places, seen }) {
  const [width, height] = [cover.naturalWidth, cover.naturalHeight];
  Object.assign(canvas, { width, height });
  const side = places.length;
  const grid = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const pixels = new ImageData(side, side);
  const most = Math.max(...places.flat());
  places.flat().forEach((share, place) => (pixels.data[4 * place + 3] = Math.round((255 * share) / most)));
  grid.getContext("2d").putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d");
  context.fillStyle = `rgb(0 0 0 / ${DARK})`;
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "destination-out";
  const size = seen * Math.min(width, height);
  context.drawImage(grid, (width - size) / 2, (height - size) / 2, size, size);
}

// The part of nine in which most of the attention is.
function inWords({ places, known }) {
  const third = (line) => Math.floor((3 * (line + 0.5)) / places.length);
  const parts = PLACES.flat().map(() => 0);
  places.forEach((row, y) => row.forEach((share, x) => (parts[3 * third(y) + third(x)] += share)));
  const best = parts.indexOf(Math.max(...parts));
  const who = known ? "You look" : "As a new user, you look like all others:";
  return `${who} most ${PLACES.flat()[best]} (${percent(parts[best])} of your attention).`;
}
