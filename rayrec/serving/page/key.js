// The API key: the user is asked for it when the service requires one; it is kept until the tab is closed.

import { element } from "./dom.js";

let asking = null;

export const key = () => sessionStorage.getItem("key") || "";

// Resolves once there is another key than the refused one. There is only one dialog, however many calls wait.
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
    element("h2", { text: "This service requires an API key", id: "key-title" }),
    element("p", { class: "quiet", text: refused ? "The service does not know this key." : "The key stays in this tab and is sent only to this service." }),
    element("label", { for: "key", text: "API key" }),
    input,
    element("button", { class: "primary", text: "Continue" }),
  );
  const dialog = element("dialog", { "aria-labelledby": "key-title" }, form);
  dialog.addEventListener("cancel", (event) => event.preventDefault()); // nothing works without a key
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
