// Calls the service, with an API key if it asks for one, and again if it is busy.

import { askForKey, key } from "./key.js";

const MAX_TRIES = 5;
const BUSY = [429, 503];
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// `status` is 0 if there was no answer.
export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  get transient() {
    return !this.status || BUSY.includes(this.status);
  }
}

// `body` is sent as JSON, or, if it is a file, as it is. `last`: the page is closing, so the call is sent once, and the browser completes it after the page has closed.
export async function call(path, body, { last = false } = {}) {
  for (let tries = 1; ; tries++) {
    const used = key();
    const raw = body instanceof Blob;
    const type = raw ? body.type : "application/json";
    const headers = { ...(used && { Authorization: `Bearer ${used}` }), ...(body && { "Content-Type": type }) };
    const options = { method: body ? "POST" : "GET", headers, body: raw ? body : body && JSON.stringify(body), keepalive: last };
    const response = await fetch(path, options).catch(() => null);
    if (response?.ok) return response;
    if (response?.status === 401 && !last) {
      await askForKey(used);
      continue;
    }
    const problem = new ServiceError(response?.status ?? 0, await reason(response));
    if (!problem.transient || last || tries === MAX_TRIES) throw problem;
    const seconds = Number(response?.headers.get("Retry-After")) || 0.5 * tries;
    await pause(1000 * seconds * (0.75 + 0.5 * Math.random())); // so that not all pages call at the same moment
  }
}

export const get = async (path) => (await call(path)).json();
export const post = async (path, body) => (await call(path, body)).json();

// A source that an <img> or <video> can load. With an API key it holds the bytes themselves, as these elements can't send a key.
export async function loadable(path) {
  return key() ? URL.createObjectURL(await (await call(path)).blob()) : path;
}

export function release(source) {
  if (source?.startsWith("blob:")) URL.revokeObjectURL(source);
}

async function reason(response) {
  if (!response) return "the service can't be reached";
  const answer = await response.json().catch(() => ({}));
  return answer.error || `the service answered ${response.status}`;
}
