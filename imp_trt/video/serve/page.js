// The browser view: pictures as fast as this page can take them, and the run's figures beside them.

import { at, content, legend, redraw, timing } from "./figures.js";

const STATE_EVERY_MS = 250;
const RETRY_MS = 1000;
const STALE_MS = 3000;
const SAMPLE = ["sequence", "seconds", "source", "infer", "total", "age"];
const RUNS = {
  connecting: "Connecting",
  live: "Live",
  waiting: "No new pictures",
  paused: "Paused",
  ended: "Ended",
  failed: "Stopped",
  lost: "Connection lost",
};

const PAGE = Math.random().toString(36).slice(2);

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const remembered = (name) => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
};
const remember = (name, value) => {
  try {
    localStorage.setItem(name, value);
  } catch {
    /* private window */
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
let asking = new AbortController();
let wake = () => {};

// ---- pictures

function query() {
  const { overlay, ...others } = layers;
  const shown = overlay ? Object.keys(others).filter((name) => others[name]) : [];
  const asked = { layers: shown.join(","), source: at("source").value };
  if (seen.alpha !== null) asked.alpha = seen.alpha;
  if (seen.held) asked.held = seen.held;
  else asked.after = seen.sequence;
  if (paused() && !seen.held) Object.assign(asked, { after: 0, hold: 1 });
  return new URLSearchParams(asked);
}

const paused = () => at("pause").getAttribute("aria-pressed") === "true";

// Something else is to be seen: whatever is on its way is given up, and the newest picture asked for again.
function again() {
  seen.sequence = 0;
  asking.abort();
  asking = new AbortController();
  wake();
}

const sleepUntilWoken = () =>
  new Promise((resolve) => {
    wake = resolve;
  });

async function pictures() {
  for (;;) {
    if (document.hidden || !seen.about || ["ended", "failed"].includes(seen.run)) {
      await sleepUntilWoken();
      continue;
    }
    const { signal } = asking;
    try {
      const asked = query();
      const response = await fetch(`frame?${asked}`, { signal });
      if (response.status === 200) {
        await show(response, signal);
        if (signal.aborted) continue;
        at("picture").dataset.layers = asked.get("layers");
        // A picture that is held does not change: nothing to do until a switch is thrown.
        if (paused()) await sleepUntilWoken();
      } else if (response.status === 410) {
        seen.held = null;
      } else if (response.status !== 204) {
        say(await response.text());
        await pause(RETRY_MS);
      }
    } catch (error) {
      if (error.name !== "AbortError") await pause(RETRY_MS);
    }
  }
}

async function show(response, signal) {
  const jpeg = await response.blob();
  const bitmap = await createImageBitmap(jpeg);
  if (signal.aborted) return bitmap.close();
  const canvas = at("picture"),
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
  at("figure").classList.add("shown");
  say("");
}

// age: milliseconds, "" where it says nothing: of a picture that stays.
function caption(age) {
  const old = Number(age);
  const parts = [`frame ${seen.index}`];
  if (age) parts.push(`${old < 10000 ? `${Math.round(old)} ms` : `${Math.round(old / 1000)} s`} old`);
  at("caption").textContent = parts.join("  \u00b7  ");
}

const say = (text) => {
  at("message").textContent = text.trim();
};

// ---- figures

async function figures() {
  for (;;) {
    if (!document.hidden) {
      try {
        if (!seen.about) await learn();
        const after = seen.samples.length ? seen.samples[seen.samples.length - 1].sequence : 0;
        const response = await fetch(
          `state?${new URLSearchParams({ after, source: at("source").value, page: PAGE })}`,
        );
        if (!response.ok) throw new Error(await response.text());
        const state = await response.json();
        if (state.run_id !== seen.about.run_id) {
          seen.about = null;
          continue;
        }
        tell(state);
      } catch {
        if (!["ended", "failed"].includes(seen.run)) mark("lost");
        seen.about = null;
        await pause(RETRY_MS);
      }
    }
    await pause(STATE_EVERY_MS);
  }
}

async function learn() {
  const about = await (await fetch("about")).json();
  if (about.run_id !== seen.id)
    Object.assign(seen, { id: about.run_id, held: null, samples: [], run: "connecting" });
  seen.about = about;
  at("title").textContent = at("title").title = about.title;
  document.title = about.title ? `${about.title} \u2013 imp-trt` : "imp-trt";
  legend(about.classes);
  // A network without things has no instances.
  for (const name of ["instances", "canvas", "disagreement"])
    document.querySelector(`[data-layer=${name}]`).hidden = !about.classes.some((row) => row.thing);
  again();
}

function tell(state) {
  const fresh = state.samples.map((values) => Object.fromEntries(SAMPLE.map((name, i) => [name, values[i]])));
  seen.samples = [...seen.samples, ...fresh].filter((sample) => state.now - sample.seconds < 60);
  const newest = seen.samples.length ? seen.samples[seen.samples.length - 1].seconds : -Infinity;
  const stale = (state.now - newest) * 1000 > STALE_MS;
  mark(state.run !== "live" ? state.run : paused() ? "paused" : stale ? "waiting" : "live");
  choices(state.sources);
  content(state.frame);
  if (state.frame && seen.alpha === null) at("alpha").value = Math.round(state.frame.alpha * 100);
  timing(
    state,
    seen.samples.filter((sample) => sample.source === (at("source").value || state.sources[0])),
  );
}

function mark(run) {
  if (["ended", "failed"].includes(run))
    say(run === "ended" ? "The run has ended." : "The run was stopped before its end: its terminal says why.");
  if (seen.run === "lost" && run !== "lost" && seen.jpeg) say("");
  if (run === "lost" && seen.run !== "lost") say("No answer from imp-segment. Trying again.");
  if (["ended", "failed", "lost"].includes(run) && seen.jpeg) caption("");
  seen.run = run;
  at("run").dataset.run = run;
  at("run").textContent = RUNS[run];
}

function choices(sources) {
  const select = at("source"),
    known = [...select.options].map((option) => option.value);
  at("sources").hidden = sources.length < 2;
  for (const name of sources) if (!known.includes(name)) select.add(new Option(name || "source", name));
  for (const option of [...select.options]) if (!sources.includes(option.value)) option.remove();
}

// ---- switches

function flip(name) {
  layers[name] = !layers[name];
  if (name !== "overlay") layers.overlay = true;
  for (const button of document.querySelectorAll(".switch")) {
    button.setAttribute("aria-pressed", layers[button.dataset.layer]);
  }
  at("tools").classList.toggle("idle", !layers.overlay);
  at("opacity").toggleAttribute("data-idle", !layers.classes);
  at("scale").hidden = !(layers.overlay && layers.disagreement);
  again();
}

function hold() {
  at("pause").setAttribute("aria-pressed", !paused());
  at("pause").lastElementChild.textContent = paused() ? "Resume" : "Pause";
  at("pause").setAttribute("aria-label", paused() ? "Resume" : "Pause");
  seen.held = null;
  if (seen.run === "live" || seen.run === "paused") mark(paused() ? "paused" : "live");
  again();
}

function save() {
  if (!seen.jpeg) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(seen.jpeg);
  link.download = `${at("source").value || "frame"}_${seen.name}.jpg`.replace(/[^\w.-]+/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function full() {
  if (document.fullscreenElement) document.exitFullscreen();
  else at("figure").requestFullscreen?.();
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  redraw();
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const flipTheme = () => {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  remember("imp-trt theme", name);
  theme(name);
};
theme(remembered("imp-trt theme") ?? (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () =>
  theme(remembered("imp-trt theme") ?? (dark.matches ? "dark" : "light")),
);

for (const button of document.querySelectorAll(".switch"))
  button.addEventListener("click", () => flip(button.dataset.layer));
at("pause").addEventListener("click", hold);
at("save").addEventListener("click", save);
at("full").addEventListener("click", full);
at("theme").addEventListener("click", flipTheme);
at("alpha").addEventListener("input", () => {
  seen.alpha = at("alpha").value;
  again();
});
at("source").addEventListener("change", () => {
  seen.held = null;
  again();
});
document.addEventListener("visibilitychange", () => wake());
const shortcuts = {
  o: () => flip("overlay"),
  c: () => flip("classes"),
  i: () => flip("instances"),
  v: () => flip("canvas"),
  d: () => flip("disagreement"),
  " ": hold,
  s: save,
  f: full,
  t: flipTheme,
};
// After a click the keys mean the page again; who came to a button by keyboard keeps it.
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

pictures();
figures();
