// The feed: asks for pages, shows them, and tells the service what the user did. Titles, tags and ids come from strangers, so they are
// only ever set as text.

const $ = (id) => document.getElementById(id);
const PAGE_SIZE = 12;
let user = new URLSearchParams(location.search).get("user") || localStorage.getItem("user") || `guest-${crypto.randomUUID().slice(0, 8)}`;
let key = sessionStorage.getItem("key") || "";
let unsent = []; // events that the service has not acknowledged yet
let playing = null; // {video, request, element, seconds, last}

async function call(path, body, options = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), ...options });
  if (response.ok) return response;
  if (response.status === 401) document.querySelectorAll(".guarded").forEach((element) => (element.hidden = false));
  const answer = await response.json().catch(() => ({}));
  throw Object.assign(new Error(answer.error || `the service answered ${response.status}`), { status: response.status });
}

// What an <img> or <video> can load: with an API key the bytes themselves, since those elements can't send one.
const loadable = async (path) => (key ? URL.createObjectURL(await (await call(path)).blob()) : path);

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

// --- events ---

function tell(kind, video, request, extra = {}) {
  unsent.push({ event_id: crypto.randomUUID(), user_id: user, video_id: video.video_id, kind, at: Date.now(), request_id: request, ...extra });
  return send();
}

// Events keep their ids until they are acknowledged, so sending them again is safe.
async function send(options) {
  const batch = unsent.slice(0, 1000);
  if (!batch.length) return;
  try {
    await call("/v1/events", { events: batch }, options);
  } catch (error) {
    if (!error.status || error.status === 503) return void setTimeout(send, 2000);
    say(error.message, true); // the service will never take these
  }
  unsent = unsent.filter((event) => !batch.includes(event));
  showTopics();
}

function stopWatching(options) {
  if (!playing) return;
  const { video, request, element, seconds } = playing;
  playing = null;
  element.pause();
  if (seconds >= 0.1) {
    unsent.push({ event_id: crypto.randomUUID(), user_id: user, video_id: video.video_id, kind: "watch", at: Date.now(), request_id: request, watch_s: Math.round(seconds * 100) / 100 });
    send(options);
  }
}

addEventListener("pagehide", () => stopWatching({ keepalive: true }));

// --- cards ---

function card(video, request) {
  const item = $("card").content.firstElementChild.cloneNode(true);
  const find = (selector) => item.querySelector(selector);
  const title = video.title || video.video_id;
  item.dataset.video = video.video_id;
  find("h3").textContent = title;
  find(".why").textContent = video.why;
  find(".score").textContent = `click chance ${(100 * video.score).toFixed(1)} %`;
  const cover = find(".cover");
  cover.setAttribute("aria-label", `Play ${title}`);
  cover.style.setProperty("--hue", [...video.video_id].reduce((hue, letter) => (hue * 31 + letter.codePointAt(0)) % 360, 7));
  if (video.cover) {
    const image = find("img");
    loadable(video.cover).then((source) => Object.assign(image, { src: source, hidden: false }), () => {});
  } else {
    find(".name").textContent = title;
  }
  cover.addEventListener("click", () => open(video, request, item));
  const like = find(".like");
  like.setAttribute("aria-label", `Like ${title}`);
  like.addEventListener("click", () => {
    if (like.getAttribute("aria-pressed") === "true") return;
    like.setAttribute("aria-pressed", "true");
    like.textContent = "Liked";
    tell("like", video, request);
  });
  const skip = find(".skip");
  skip.setAttribute("aria-label", `Not for me: ${title}`);
  skip.addEventListener("click", () => {
    if (playing?.video === video) stopWatching();
    item.classList.add("skipped");
    item.querySelectorAll("button").forEach((button) => (button.disabled = true));
    tell("skip", video, request);
    item.nextElementSibling?.querySelector(".cover")?.focus();
  });
  return item;
}

async function open(video, request, item) {
  stopWatching();
  const cover = item.querySelector(".cover");
  cover.disabled = true;
  tell("click", video, request);
  if (!video.file) return void cover.classList.add("open");
  const element = document.createElement("video");
  Object.assign(element, { controls: true, autoplay: true, playsInline: true, loop: false });
  element.setAttribute("aria-label", video.title || video.video_id);
  element.addEventListener("error", () => say("This video can't be played here.", true));
  element.addEventListener("play", () => {
    if (playing?.element !== element) {
      stopWatching();
      playing = { video, request, element, seconds: 0, last: element.currentTime };
    }
  });
  // What was played, not how far: a seek is no watching.
  element.addEventListener("timeupdate", () => {
    if (playing?.element !== element) return;
    const step = element.currentTime - playing.last;
    if (step > 0 && step < 1.5) playing.seconds += step;
    playing.last = element.currentTime;
    item.querySelector(".watched").textContent = `${playing.seconds.toFixed(1)} s`;
  });
  element.addEventListener("ended", () => playing?.element === element && stopWatching());
  cover.replaceWith(element);
  element.focus();
  element.src = await loadable(video.file);
}

// --- pages ---

async function showTopics() {
  try {
    const { topics } = await (await call(`/v1/users/${encodeURIComponent(user)}`)).json();
    $("topics").replaceChildren(
      ...topics.map(({ topic, words, clicks }) => {
        const item = document.createElement("li");
        const count = document.createElement("b");
        count.textContent = clicks;
        item.append(words.slice(0, 3).join(", ") || `topic ${topic}`, count);
        return item;
      }),
    );
    $("likes").hidden = !topics.length;
  } catch (error) {
    say(error.message, true);
  }
}

async function showPage() {
  $("next").disabled = true;
  $("feed").setAttribute("aria-busy", "true");
  stopWatching();
  try {
    await send(); // what was clicked on this page counts for the next one
    const started = performance.now();
    const page = await (await call("/v1/recommend", { user_id: user, k: PAGE_SIZE })).json();
    const milliseconds = Math.round(performance.now() - started);
    $("feed").replaceChildren(...page.videos.map((video) => card(video, page.request_id)));
    say(page.videos.length ? `${page.videos.length} videos for ${user}, in ${milliseconds} ms` : `${user} has seen every video there is.`);
    scrollTo({ top: 0 });
    await showTopics();
  } catch (error) {
    say(error.message, true);
  } finally {
    $("feed").setAttribute("aria-busy", "false");
    $("next").disabled = false;
  }
}

$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  stopWatching();
  user = $("user").value.trim() || user;
  key = $("key").value.trim() || key;
  localStorage.setItem("user", user);
  sessionStorage.setItem("key", key);
  history.replaceState(null, "", `?user=${encodeURIComponent(user)}`);
  showPage();
});
$("next").addEventListener("click", showPage);
$("user").value = user;
localStorage.setItem("user", user);
showPage();
