// Who is watching: the user in the address, the user of the last visit, or a new guest; and the form that switches users.

import { get } from "./api.js";
import { $, element, hueOfText } from "./dom.js";

let user = new URLSearchParams(location.search).get("user") || localStorage.getItem("user") || newGuest();
let changed = () => {};

export const viewer = () => user;

export function onViewer(callback) {
  changed = callback;
}

// Returns what the dashboard knows of the service.
export async function startViewer() {
  $("viewer").addEventListener("submit", (event) => {
    event.preventDefault();
    become($("user").value.trim());
  });
  $("guest").addEventListener("click", () => become(newGuest()));
  remember();
  const known = await get("/v1/dashboard").catch(() => ({ users: [], tracks: 0 })); // the form works without suggestions
  $("users").replaceChildren(...known.users.map(chip));
  mark();
  return known;
}

function become(next) {
  if (!next || next === user) return;
  user = next;
  remember();
  changed();
}

function remember() {
  $("user").value = user;
  localStorage.setItem("user", user);
  history.replaceState(null, "", `?user=${encodeURIComponent(user)}`);
  mark();
}

function mark() {
  $("watching").textContent = user;
  for (const button of $("users").querySelectorAll("button")) button.setAttribute("aria-pressed", button.value === user);
}

function chip(id) {
  const button = element("button", { type: "button", class: "chip", value: id, text: id });
  button.style.setProperty("--hue", hueOfText(id));
  button.addEventListener("click", () => become(id));
  return element("li", {}, button);
}

function newGuest() {
  return `guest-${crypto.randomUUID().slice(0, 8)}`;
}
