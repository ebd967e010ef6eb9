// SPDX-License-Identifier: Apache-2.0
// The legend, the statistics and the graphs: displays the responses of the server.

import { Graph, percentile } from "./graph.js";

// With more classes than this, only those that have occurred are listed.
const MAX_LISTED = 30;

export const byId = (id) => document.getElementById(id);

const latency = new Graph(byId("latency"), [
  ["total", "total", "--total"],
  ["infer", "network", "--network"],
]);
const age = new Graph(byId("age"), [["age", "age", "--age"]]);

export function redraw() {
  latency.draw();
  age.draw();
}

export function legend(classes) {
  byId("classes").replaceChildren(
    ...classes.map((row) => {
      const item = document.createElement("li"),
        chip = document.createElement("i");
      const name = document.createElement("span"),
        count = document.createElement("em"),
        share = document.createElement("em");
      item.style.setProperty("--chip", `rgb(${row.rgb.join(" ")})`);
      item.title = row.thing ? `${row.name}: has instances` : row.name;
      name.textContent = row.name;
      count.className = "count";
      item.append(chip, name, count, share);
      return item;
    }),
  );
}

export function content(frame) {
  if (!frame) return;
  byId("canvas-age").hidden = frame.canvas_age === undefined;
  if (frame.canvas_age !== undefined)
    byId("canvas-age").lastElementChild.textContent =
      frame.canvas_age === 1 ? "1 frame" : `${frame.canvas_age} frames`;
  [...byId("classes").children].forEach((item, i) => {
    const share = frame.shares?.[i] ?? 0,
      count = frame.counts?.[i] ?? 0;
    item.style.setProperty("--share", share);
    item.classList.toggle("absent", share === 0 && !count);
    // Long tables list only the classes that have occurred.
    item.classList.toggle("known", item.classList.contains("known") || share > 0 || count > 0);
    item.hidden = frame.shares?.length > MAX_LISTED && !item.classList.contains("known");
    item.children[2].textContent = count ? `\u00d7${count}` : "";
    item.children[3].textContent = share ? percent(share) : "";
  });
}

const percent = (share) =>
  share < 0.0005 ? "<0.1%" : `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)}%`;

const short = (ms) =>
  ms === null || ms === undefined ? "\u2013" : ms < 100 ? ms.toFixed(1) : String(Math.round(ms));

function figure(id, value, unit) {
  const small = document.createElement("small");
  small.textContent = value === "\u2013" ? "" : unit;
  byId(id).replaceChildren(value, small);
}

function keys(id, entries) {
  byId(id).replaceChildren(
    ...entries.map(([text, color]) => {
      const span = document.createElement("span");
      span.textContent = text;
      if (color) {
        span.className = "key";
        span.style.setProperty("--key", `var(${color})`);
      }
      return span;
    }),
  );
}

export function timing(state, samples) {
  const { statistics } = state,
    now = state.now,
    deadline = statistics.deadline_ms ?? null;
  latency.show(samples, now, null);
  age.show(samples, now, deadline);
  const total = latency.values("total"),
    network = latency.values("infer"),
    ages = age.values("age");
  const recent = samples.filter((sample) => now - sample.seconds <= 5);
  // The statistics of the run cover all sources; with several, the samples of the selected one are used.
  const run = state.sources.length > 1 ? {} : statistics;
  const rate =
    run.frames_per_second ??
    (recent.length > 1 ? recent.length / Math.min(5, now - recent[0].seconds) : null);
  figure("rate", rate === null ? "\u2013" : rate.toFixed(1), "/s");
  figure("latency50", short(percentile(total, 50)), "ms");
  figure("age99", short(run.age_ms?.p99 ?? percentile(ages, 99)), "ms");
  keys("latency-now", [
    [`total ${short(percentile(total, 50))}, p99 ${short(percentile(total, 99))}`, "--total"],
    [`network ${short(percentile(network, 50))}`, "--network"],
  ]);
  const tail = statistics.age_ms?.["p99.9"];
  keys("age-now", [
    [`p50 ${short(percentile(ages, 50))}`],
    [`p99 ${short(percentile(ages, 99))}`],
    ...(tail === undefined ? [] : [[`run p99.9 ${short(tail)}`]]),
  ]);
  byId("missed").hidden = deadline === null;
  if (deadline !== null) {
    const dd = byId("missed").lastElementChild;
    dd.textContent = String(statistics.deadline_misses ?? 0);
    dd.classList.toggle("bad", Boolean(statistics.deadline_misses));
    byId("missed").firstElementChild.textContent = `Over ${deadline} ms`;
  }
  showCounters(statistics);
}

function showCounters(statistics) {
  byId("counters").hidden = statistics.captured === undefined;
  if (statistics.captured === undefined) return;
  const parts = [statistics.delivered, statistics.dropped, statistics.in_flight];
  [...byId("flow").children].forEach((bar, i) => bar.style.setProperty("--part", parts[i]));
  const bold = (value) => {
    const b = document.createElement("b");
    b.textContent = value;
    return b;
  };
  const text = [
    "captured ",
    bold(statistics.captured),
    " = delivered ",
    bold(parts[0]),
    " + dropped ",
    bold(parts[1]),
    " + in flight ",
    bold(parts[2]),
  ];
  if (statistics.reconnects)
    text.push(
      document.createElement("br"),
      "reconnected ",
      bold(statistics.reconnects),
      statistics.reconnects === 1 ? " time" : " times",
    );
  byId("counted").replaceChildren(...text);
}
