// SPDX-License-Identifier: Apache-2.0
// The browser view: displays frames as fast as the page can, and the statistics of the run.

import { byId, content, legend, redraw, timing } from "./figures.js";

const STATE_INTERVAL_MS = 250;
const RETRY_MS = 1000;
const STALE_MS = 3000;
const SAMPLE = ["sequence", "seconds", "source", "infer", "total", "age"];
const RUNS = {
  connecting: "Connecting",
  live: "Live",
  waiting: "No new frames",
  paused: "Paused",
  ended: "Ended",
  failed: "Stopped",
  lost: "Connection lost",
};

const PAGE = Math.random().toString(36).slice(2);

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const loadSetting = (name) => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
};
const saveSetting = (name, value) => {
  try {
    localStorage.setItem(name, value);
  } catch {
    /* not available in private windows */
  }
};

const seen = {
  about: null,
  run: "connecting",
  sequence: 0,
  at: 0,
  held: null,
  jpeg: null,
  index: "",
  name: "",
  samples: [],
  alpha: null,
};
const layers = { overlay: true, classes: true, instances: true, canvas: false, disagreement: false };
let abortController = new AbortController();
let wake = () => {};

// ---- frames

function query() {
  const { overlay, ...others } = layers;
  const shown = overlay ? Object.keys(others).filter((name) => others[name]) : [];
  const request = { layers: shown.join(","), source: byId("source").value };
  if (seen.alpha !== null) request.alpha = seen.alpha;
  if (seen.held) request.held = seen.held;
  else request.after = seen.sequence;
  if (paused() && !seen.held) Object.assign(request, { after: 0, hold: 1 });
  return new URLSearchParams(request);
}

const paused = () => byId("pause").getAttribute("aria-pressed") === "true";

// The display settings have changed: cancel the pending request and fetch the newest frame again.
function refresh() {
  seen.sequence = 0;
  abortController.abort();
  abortController = new AbortController();
  wake();
}

const sleepUntilWoken = () =>
  new Promise((resolve) => {
    wake = resolve;
  });

async function frameLoop() {
  for (;;) {
    if (document.hidden || !seen.about || ["ended", "failed"].includes(seen.run)) {
      await sleepUntilWoken();
      continue;
    }
    const { signal } = abortController;
    try {
      const request = query();
      const response = await fetch(`frame?${request}`, { signal });
      if (response.status === 200) {
        await show(response, signal);
        if (signal.aborted) continue;
        byId("picture").dataset.layers = request.get("layers");
        // A held frame does not change; wait until a setting changes.
        if (paused()) await sleepUntilWoken();
      } else if (response.status === 410) {
        seen.held = null;
      } else if (response.status !== 204) {
        showMessage(await response.text());
        await sleep(RETRY_MS);
      }
    } catch (error) {
      if (error.name !== "AbortError") await sleep(RETRY_MS);
    }
  }
}

async function show(response, signal) {
  const jpeg = await response.blob();
  const bitmap = await createImageBitmap(jpeg);
  if (signal.aborted) return bitmap.close();
  const canvas = byId("picture"),
    head = response.headers;
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  seen.sequence = Number(head.get("Frame-Sequence"));
  seen.name = decodeURIComponent(head.get("Frame-Name"));
  seen.jpeg = jpeg;
  seen.at = performance.now();
  if (paused()) seen.held = seen.sequence;
  seen.index = head.get("Frame-Index");
  caption(paused() ? "" : head.get("Frame-Age"));
  canvas.dataset.sequence = seen.sequence;
  byId("figure").classList.add("shown");
  showMessage("");
}

// age: milliseconds, "" for a paused frame, whose age is not displayed.
function caption(age) {
  const ms = Number(age);
  const parts = [`frame ${seen.index}`];
  if (age) parts.push(`${ms < 10000 ? `${Math.round(ms)} ms` : `${Math.round(ms / 1000)} s`} old`);
  byId("caption").textContent = parts.join("  \u00b7  ");
}

const showMessage = (text) => {
  byId("message").textContent = text.trim();
};

// ---- statistics

async function stateLoop() {
  for (;;) {
    if (!document.hidden) {
      try {
        if (!seen.about) await fetchAbout();
        const after = seen.samples.length ? seen.samples[seen.samples.length - 1].sequence : 0;
        const response = await fetch(
          `state?${new URLSearchParams({ after, source: byId("source").value, page: PAGE })}`,
        );
        if (!response.ok) throw new Error(await response.text());
        const state = await response.json();
        if (state.run_id !== seen.about.run_id) {
          seen.about = null;
          continue;
        }
        update(state);
      } catch {
        if (!["ended", "failed"].includes(seen.run)) setRun("lost");
        seen.about = null;
        await sleep(RETRY_MS);
      }
    }
    await sleep(STATE_INTERVAL_MS);
  }
}

async function fetchAbout() {
  const about = await (await fetch("about")).json();
  if (about.run_id !== seen.id)
    Object.assign(seen, { id: about.run_id, held: null, samples: [], run: "connecting" });
  seen.about = about;
  byId("title").textContent = byId("title").title = about.title;
  document.title = about.title ? `${about.title} \u2013 imp-trt` : "imp-trt";
  legend(about.classes);
  // A network without thing classes has no instances.
  for (const name of ["instances", "canvas", "disagreement"])
    document.querySelector(`[data-layer=${name}]`).hidden = !about.classes.some((row) => row.thing);
  refresh();
}

function update(state) {
  const fresh = state.samples.map((values) => Object.fromEntries(SAMPLE.map((name, i) => [name, values[i]])));
  seen.samples = [...seen.samples, ...fresh].filter((sample) => state.now - sample.seconds < 60);
  const newest = seen.samples.length ? seen.samples[seen.samples.length - 1].seconds : -Infinity;
  const stale = (state.now - newest) * 1000 > STALE_MS;
  setRun(state.run !== "live" ? state.run : paused() ? "paused" : stale ? "waiting" : "live");
  updateSources(state.sources);
  content(state.frame);
  if (state.frame && seen.alpha === null) byId("alpha").value = Math.round(state.frame.alpha * 100);
  timing(
    state,
    seen.samples.filter((sample) => sample.source === (byId("source").value || state.sources[0])),
  );
}

function setRun(run) {
  if (["ended", "failed"].includes(run))
    showMessage(run === "ended" ? "The run has ended." : "The run stopped before its end. See the output of imp-segment.");
  if (seen.run === "lost" && run !== "lost" && seen.jpeg) showMessage("");
  if (run === "lost" && seen.run !== "lost") showMessage("No response from imp-segment. Retrying.");
  if (["ended", "failed", "lost"].includes(run) && seen.jpeg) caption("");
  seen.run = run;
  byId("run").dataset.run = run;
  byId("run").textContent = RUNS[run];
}

function updateSources(sources) {
  const select = byId("source"),
    known = [...select.options].map((option) => option.value);
  byId("sources").hidden = sources.length < 2;
  for (const name of sources) if (!known.includes(name)) select.add(new Option(name || "source", name));
  for (const option of [...select.options]) if (!sources.includes(option.value)) option.remove();
}

// ---- controls

function toggleLayer(name) {
  layers[name] = !layers[name];
  if (name !== "overlay") layers.overlay = true;
  for (const button of document.querySelectorAll(".switch")) {
    button.setAttribute("aria-pressed", layers[button.dataset.layer]);
  }
  byId("tools").classList.toggle("idle", !layers.overlay);
  byId("opacity").toggleAttribute("data-idle", !layers.classes);
  byId("scale").hidden = !(layers.overlay && layers.disagreement);
  refresh();
}

function togglePause() {
  byId("pause").setAttribute("aria-pressed", !paused());
  byId("pause").lastElementChild.textContent = paused() ? "Resume" : "Pause";
  byId("pause").setAttribute("aria-label", paused() ? "Resume" : "Pause");
  seen.held = null;
  if (seen.run === "live" || seen.run === "paused") setRun(paused() ? "paused" : "live");
  refresh();
}

function save() {
  if (!seen.jpeg) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(seen.jpeg);
  link.download = `${byId("source").value || "frame"}_${seen.name}.jpg`.replace(/[^\w.-]+/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else byId("figure").requestFullscreen?.();
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  redraw();
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const toggleTheme = () => {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  saveSetting("imp-trt theme", name);
  theme(name);
};
theme(loadSetting("imp-trt theme") ?? (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () =>
  theme(loadSetting("imp-trt theme") ?? (dark.matches ? "dark" : "light")),
);

for (const button of document.querySelectorAll(".switch"))
  button.addEventListener("click", () => toggleLayer(button.dataset.layer));
byId("pause").addEventListener("click", togglePause);
byId("save").addEventListener("click", save);
byId("full").addEventListener("click", toggleFullscreen);
byId("theme").addEventListener("click", toggleTheme);
byId("alpha").addEventListener("input", () => {
  seen.alpha = byId("alpha").value;
  refresh();
});
byId("source").addEventListener("change", () => {
  seen.held = null;
  refresh();
});
document.addEventListener("visibilitychange", () => wake());
const shortcuts = {
  o: () => toggleLayer("overlay"),
  c: () => toggleLayer("classes"),
  i: () => toggleLayer("instances"),
  v: () => toggleLayer("canvas"),
  d: () => toggleLayer("disagreement"),
  " ": togglePause,
  s: save,
  f: toggleFullscreen,
  t: toggleTheme,
};
// Remove the focus after a mouse click, so that keys act as shortcuts again; keyboard users keep it.
document.addEventListener("click", (event) => {
  if (event.detail) event.target.closest("button")?.blur();
});
document.addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  if (key === " " && event.target.matches("button")) return;
  if (!(key in shortcuts)) return;
  event.preventDefault();
  shortcuts[key]();
});

frameLoop();
stateLoop();
