// One clip: loads it when it is near, plays it when it is in view, and measures how long it was watched.

import { loadable, release } from "./api.js";

export const sound = { on: false }; // for all clips; browsers start clips by themselves only without sound

export class Clip {
  #path;
  #failed;
  #loading = null; // resolves to the element's source
  #wanted = false;
  #last = 0;

  // `watched(seconds, duration)` is called while the clip plays, `failed()` if it can't be played.
  constructor(video, path, { watched, failed }) {
    this.video = video;
    this.#path = path;
    this.#failed = failed;
    this.seconds = 0; // played since `take`
    video.addEventListener("timeupdate", () => {
      this.#measure();
      watched(this.seconds, video.duration);
    });
    video.addEventListener("playing", () => video.classList.add("shown"));
    video.addEventListener("error", () => video.hasAttribute("src") && failed());
  }

  load() {
    if (!this.#loading) {
      const mine = loadable(this.#path).then(
        (source) => {
          if (this.#loading === mine) this.video.src = source; // it has not been unloaded meanwhile
          return source;
        },
        () => void this.#failed(),
      );
      this.#loading = mine;
    }
    return this.#loading;
  }

  unload() {
    if (!this.#loading) return;
    this.pause();
    this.#loading.then(release);
    this.#loading = null;
    this.video.classList.remove("shown");
    this.video.removeAttribute("src");
    this.video.load();
  }

  async play() {
    this.#wanted = true;
    await this.load();
    if (!this.#wanted) return;
    this.video.muted = !sound.on;
    await this.video.play().catch((problem) => {
      if (problem.name !== "NotAllowedError" || !sound.on) return;
      this.video.muted = true; // browsers allow sound only after the user has touched the page
      return this.video.play().catch(() => {});
    });
  }

  pause() {
    this.#wanted = false;
    this.video.pause();
  }

  get playing() {
    return this.#wanted;
  }

  // The seconds played since the last call.
  take() {
    this.#measure();
    const seconds = this.seconds;
    this.seconds = 0;
    return seconds;
  }

  // Measures how much was played, not the position, since a clip starts again at its end.
  #measure() {
    const { currentTime, duration } = this.video;
    const step = currentTime - this.#last + (currentTime < this.#last ? duration : 0);
    if (step > 0 && step < 2) this.seconds += step;
    this.#last = currentTime;
  }
}
