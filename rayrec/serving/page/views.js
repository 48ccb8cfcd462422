// Reports which slides came into view: at least half of one, for a moment, while the page itself is seen; and for how long.

const HALF = 0.5;
const MOMENT_MS = 250; // a slide that flies past in a swipe is not seen
const FLUSH_MS = 5000; // a view waits so long for others at most

export class Views {
  #slides = new Map(); // node -> what is known of its slide
  #flushing = null;
  #hidden = false;
  #observer;

  // `report(slide, more)` adds a `view` to the outbox and returns its event; `outbox` sends it.
  constructor(root, outbox, report) {
    this.outbox = outbox;
    this.report = report;
    this.#observer = new IntersectionObserver((entries) => entries.forEach((entry) => this.#moved(entry)), { root, threshold: HALF });
  }

  watch(slide) {
    this.#slides.set(slide.node, { slide, inside: false, since: null, dwell: 0, event: null });
    this.#observer.observe(slide.node);
  }

  forget(slide) {
    this.#observer.unobserve(slide.node);
    const seen = this.#slides.get(slide.node);
    if (seen) this.#pause(seen);
    this.#slides.delete(slide.node);
  }

  // Whether something else hides the slides: another tab, or what lies over the feed.
  hide(hidden) {
    if (hidden === this.#hidden) return;
    this.#hidden = hidden;
    for (const seen of this.#slides.values()) hidden ? this.#pause(seen) : this.#start(seen);
  }

  #moved({ target, isIntersecting, intersectionRatio }) {
    const seen = this.#slides.get(target);
    if (!seen) return;
    seen.inside = isIntersecting && intersectionRatio >= HALF;
    seen.inside ? this.#start(seen) : this.#pause(seen);
  }

  #start(seen) {
    if (!seen.inside || this.#hidden || seen.since !== null) return;
    seen.since = performance.now();
    if (!seen.event) seen.timer = setTimeout(() => this.#view(seen), MOMENT_MS);
  }

  #view(seen) {
    seen.event = this.report(seen.slide, {});
    this.#flushing ??= setTimeout(() => {
      this.#flushing = null;
      this.outbox.flush();
    }, FLUSH_MS);
  }

  // What was seen goes out of view: says for how long it was there, in the event that still waits, or else in another one.
  #pause(seen) {
    clearTimeout(seen.timer);
    if (seen.since === null) return;
    seen.dwell += (performance.now() - seen.since) / 1000;
    seen.since = null;
    if (!seen.event) return;
    const more = { dwell_s: Math.round(100 * seen.dwell) / 100 };
    if (!this.outbox.amend(seen.event, more)) seen.event = this.report(seen.slide, more);
  }
}
