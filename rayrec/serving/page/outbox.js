// Events on their way to the service. They keep their ids until they are acknowledged, so sending one twice is safe.

import { call, post } from "./api.js";

const MAX_AT_ONCE = 100; // far below the 64 KiB that a browser lets outlive the page
const AGAIN_MS = 3000;

export class Outbox {
  #unsent = [];
  #sending = null;

  // `sent()` follows each batch that was acknowledged; `refused(error)` one of which the service will never take all.
  constructor({ sent, refused }) {
    this.sent = sent;
    this.refused = refused;
  }

  add(event) {
    this.#unsent.push({ event_id: crypto.randomUUID(), at: Date.now(), ...event });
  }

  // Resolves when all is sent, or when the service can't take it now; then it is tried again later.
  flush() {
    this.#sending ??= this.#send().finally(() => (this.#sending = null));
    return this.#sending;
  }

  // The page goes away or into the background: what is left, in a request that outlives it.
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
        if (error.passing) return void setTimeout(() => this.flush(), AGAIN_MS);
        this.#forget(batch);
        this.refused(error);
      }
    }
  }

  #forget(batch) {
    this.#unsent = this.#unsent.filter((event) => !batch.includes(event));
  }
}
