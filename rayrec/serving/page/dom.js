// Small helpers for the pages. Titles, tags and ids come from strangers, so they are always set as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export function element(name, { text = "", ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

export function icon(name) {
  const made = svg("svg", { class: "icon", "aria-hidden": "true" });
  made.append(svg("use", { href: `#icon-${name}` }));
  return made;
}

// Topics with neighbouring numbers get very different hues, so that they don't look alike.
export const hueOfTopic = (topic) => Math.round((topic * 137.508 + 12) % 360);
export const hueOfText = (text) => [...text].reduce((hue, letter) => (hue * 31 + letter.codePointAt(0)) % 360, 7);

export const nameOfTopic = (topic, words, max = 3) => words?.slice(0, max).join(", ") || `topic ${topic}`;
export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;

const still = matchMedia("(prefers-reduced-motion: reduce)");
export const prefersStill = () => still.matches;
