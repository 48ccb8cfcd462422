// Sends events to the service. Events keep their ids until they are acknowledged, so sending one twice is safe.

import { call, post } from "./api.js";

const MAX_AT_ONCE = 100; // far below the 64 KiB that a browser still sends after the page has closed
const RETRY_MS = 3000;

export class Outbox {
  #unsent = [];
  #sending = null;
  #tried = new WeakSet(); // events that may have reached the service

  // `sent()` is called after each acknowledged batch; `refused(error)` if the service refuses an event of a batch for good.
  constructor({ sent, refused }) {
    this.sent = sent;
    this.refused = refused;
  }

  add(event) {
    const added = { event_id: crypto.randomUUID(), at: Date.now(), ...event };
    this.#unsent.push(added);
    return added;
  }

  // Adds to an event, and returns whether it could: one that may have reached the service stays as it is.
  amend(event, more) {
    if (this.#tried.has(event)) return false;
    Object.assign(event, more);
    return true;
  }

  // Resolves when all events have been sent, or when the service can't accept them now; then they are sent again later.
  flush() {
    this.#sending ??= this.#send().finally(() => (this.#sending = null));
    return this.#sending;
  }

  // Called when the page closes or goes into the background: sends what is left in requests that outlive the page.
  leave() {
    for (let first = 0; first < this.#unsent.length; first += MAX_AT_ONCE) {
      const batch = this.#take(first);
      call("/v1/events", { events: batch }, { last: true }).then(() => this.#forget(batch), () => {});
    }
  }

  async #send() {
    while (this.#unsent.length) {
      const batch = this.#take(0);
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

  #take(first) {
    const batch = this.#unsent.slice(first, first + MAX_AT_ONCE);
    for (const event of batch) this.#tried.add(event);
    return batch;
  }

  #forget(batch) {
    this.#unsent = this.#unsent.filter((event) => !batch.includes(event));
  }
}
