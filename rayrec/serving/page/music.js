// Music for the video in view: the tracks that go best with it and with the user's taste. While one plays, the clip is silent.

import { loadable, post, release } from "./api.js";
import { $, element, icon, percent } from "./dom.js";
import { openPanel } from "./panel.js";
import { sound } from "./player.js";
import { viewer } from "./viewer.js";

const TRACKS = 5;

let toggleSound = null; // null while it is not known whether the service has music
let wanted = null; // the id of the video in view
let asked = 0; // so that a slow answer does not replace that of a later video
let playing = null; // the button of the track that plays
let source = null; // of the track that plays
let wasOn = false; // whether the clip's own sound was on before

// Is called once the service has said that it has music.
export function startMusic(toggle) {
  toggleSound = toggle;
  document.body.classList.add("musical");
  $("song").addEventListener("error", () => playing && fail());
  document.addEventListener("visibilitychange", () => document.hidden && stopMusic());
  $("feed").addEventListener("click", (event) => event.target.closest(".music") && openPanel("music"));
  if (wanted) list(wanted);
}

export function musicFor(video) {
  wanted = video?.video_id;
  if (!wanted) $("music").hidden = true;
  else if (toggleSound) list(wanted);
}

export function stopMusic() {
  if (!playing) return;
  $("song").pause();
  source.then(release, () => {});
  playing.setAttribute("aria-pressed", "false");
  playing = null;
  if (wasOn && !sound.on) toggleSound();
}

async function list(video_id) {
  const turn = ++asked;
  $("music-list").setAttribute("aria-busy", "true");
  const { tracks } = await post("/v1/music", { user_id: viewer(), video_id, k: TRACKS }).catch(() => ({ tracks: [] }));
  if (turn !== asked || !wanted) return;
  stopMusic();
  $("music").hidden = !tracks.length; // the bundle may have been swapped for one without music
  $("music-list").replaceChildren(...tracks.map(row));
  $("music-list").setAttribute("aria-busy", "false");
}

function row(track) {
  const title = track.title || track.track_id;
  const about = [track.artist, track.fit != null && `fits ${percent(track.fit)}`].filter(Boolean).join(" · ");
  const facts = [element("span", { class: "what", text: title }), element("span", { class: "quiet", text: about })];
  const attributes = { type: "button", class: "track", "data-track": track.track_id, "aria-pressed": "false", "aria-label": `Play ${title}` };
  const button = element("button", attributes, icon("play"), icon("pause"), ...facts);
  button.disabled = !track.file;
  button.addEventListener("click", () => (playing === button ? stopMusic() : play(button, track.file)));
  return element("li", {}, button);
}

async function play(button, file) {
  stopMusic();
  wasOn = sound.on;
  if (wasOn) toggleSound();
  button.setAttribute("aria-pressed", "true");
  const mine = loadable(file);
  [playing, source] = [button, mine];
  try {
    const found = await mine;
    if (source !== mine || !playing) return; // another one has been chosen meanwhile
    $("song").src = found;
    await $("song").play();
  } catch (problem) {
    if (source === mine && problem.name !== "AbortError") fail();
  }
}

function fail() {
  const button = playing;
  stopMusic();
  if (!button) return;
  button.disabled = true;
  button.querySelector(".quiet").textContent = "This track can't be played here.";
}
