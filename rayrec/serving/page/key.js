// The API key: asked for when the service wants one, kept for as long as this tab lives.

import { element } from "./dom.js";

let asking = null;

export const key = () => sessionStorage.getItem("key") || "";

// Resolves once there is another key than the refused one. However many calls wait, there is one dialog.
export function askForKey(refused) {
  if (key() !== refused) return Promise.resolve();
  asking ??= ask(refused).finally(() => (asking = null));
  return asking;
}

function ask(refused) {
  const input = element("input", { type: "password", id: "key", required: "", autocomplete: "off", spellcheck: "false" });
  const form = element(
    "form",
    { class: "stack" },
    element("h2", { text: "This service asks for an API key", id: "key-title" }),
    element("p", { class: "quiet", text: refused ? "It does not know the one it was sent." : "It stays in this tab and is sent to this service alone." }),
    element("label", { for: "key", text: "API key" }),
    input,
    element("button", { class: "primary", text: "Go on" }),
  );
  const dialog = element("dialog", { "aria-labelledby": "key-title" }, form);
  dialog.addEventListener("cancel", (event) => event.preventDefault()); // nothing works without
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem("key", input.value.trim());
      dialog.remove();
      resolve();
    });
  });
}
