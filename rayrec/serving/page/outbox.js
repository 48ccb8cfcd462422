// Sends events to the service. Events keep their ids until they are acknowledged, so sending one twice is safe.

import { call, post } from "./api.js";

const MAX_AT_ONCE = 100; // far below the 64 KiB that a browser still sends after the page has closed
const RETRY_MS = 3000;

export class Outbox {
  #unsent = [];
  #sending = null;

  // `sent()` is called after each acknowledged batch; `refused(error)` if the service refuses an event of a batch for good.
  constructor({ sent, refused }) {
    this.sent = sent;
    this.refused = refused;
  }

  add(event) {
    this.#unsent.push({ event_id: crypto.randomUUID(), at: Date.now(), ...event });
  }

  // Resolves when all events have been sent, or when the service can't accept them now; then they are sent again later.
  flush() {
    this.#sending ??= this.#send().finally(() => (this.#sending = null));
    return this.#sending;
  }

  // Called when the page closes or goes into the background: sends what is left in requests that outlive the page.
  leave() {
    for (let first = 0; first < this.#unsent.length; first += MAX_AT_ONCE) {
      const batch = this.#unsent.slice(first, first + MAX_AT_ONCE);
      call("/v1/events", { events: batch }, { last: true }).then(() => this.#forget(batch), () => {});
    }
  }

  async #send() {
    while (this.#unsent.length) {
      const batch = this.#unsent.slice(0, MAX_AT_ONCE);
      try {
        const { refused } = await post("/v1/events", { events: batch });
        this.#forget(batch);
        this.sent();
        if (refused.length) this.refused(new Error(refused[0].error));
      } catch (error) {
        if (error.transient) return void setTimeout(() => this.flush(), RETRY_MS);
        this.#forget(batch);
        this.refused(error);
      }
    }
  }

  #forget(batch) {
    this.#unsent = this.#unsent.filter((event) => !batch.includes(event));
  }
}
