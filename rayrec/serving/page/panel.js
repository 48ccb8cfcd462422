// The side panel: beside the feed if there is room, otherwise (on a phone) a drawer over it.

import { $ } from "./dom.js";

const narrow = matchMedia("(max-width: 899px)");

export function startPanel() {
  $("open-panel").addEventListener("click", () => show(true));
  $("close-panel").addEventListener("click", () => show(false));
  $("shade").addEventListener("click", () => show(false));
  $("panel").addEventListener("keydown", (event) => event.key === "Escape" && show(false));
  narrow.addEventListener("change", () => show(false));
  show(false);
}

export const panelIsOver = () => narrow.matches && $("panel").classList.contains("open");

// Brings a section of the panel into view, and the panel if it is closed.
export function openPanel(id) {
  if (narrow.matches) show(true);
  $(id).scrollIntoView({ block: "nearest" });
  $(`${id}-title`).focus({ preventScroll: true });
}

function show(open) {
  const over = narrow.matches && open;
  const was = $("panel").classList.contains("open");
  $("panel").classList.toggle("open", over);
  $("shade").hidden = !over;
  $("panel").inert = narrow.matches && !open;
  for (const id of ["top", "stage"]) $(id).inert = over;
  $("open-panel").setAttribute("aria-expanded", over);
  if (over) $("close-panel").focus();
  else if (was) $("open-panel").focus();
}
