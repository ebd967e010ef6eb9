// The legend, the figures and the graphs: from what the server tells to what the page shows.

import { Graph, percentile } from "./graph.js";

// Tables with more classes than this list only those that have been seen.
const LONG = 30;

export const at = (id) => document.getElementById(id);

const latency = new Graph(at("latency"), [
  ["total", "total", "--total"],
  ["infer", "network", "--network"],
]);
const age = new Graph(at("age"), [["age", "age", "--age"]]);

export function redraw() {
  latency.draw();
  age.draw();
}

export function legend(classes) {
  at("classes").replaceChildren(
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
  [...at("classes").children].forEach((item, i) => {
    const share = frame.shares?.[i] ?? 0,
      count = frame.counts?.[i] ?? 0;
    item.style.setProperty("--share", share);
    item.classList.toggle("absent", share === 0 && !count);
    // Of a long table only what has been seen is listed.
    item.classList.toggle("known", item.classList.contains("known") || share > 0 || count > 0);
    item.hidden = frame.shares?.length > LONG && !item.classList.contains("known");
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
  at(id).replaceChildren(value, small);
}

function keys(id, entries) {
  at(id).replaceChildren(
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
  const { statistics: told } = state,
    now = state.now,
    deadline = told.deadline_ms ?? null;
  latency.show(samples, now, null);
  age.show(samples, now, deadline);
  const total = latency.values("total"),
    network = latency.values("infer"),
    old = age.values("age");
  const recent = samples.filter((sample) => now - sample.seconds <= 5);
  // The run's figures are those of all sources together, the others those of the one that is shown.
  const run = state.sources.length > 1 ? {} : told;
  const rate =
    run.frames_per_second ??
    (recent.length > 1 ? recent.length / Math.min(5, now - recent[0].seconds) : null);
  figure("rate", rate === null ? "\u2013" : rate.toFixed(1), "/s");
  figure("latency50", short(percentile(total, 50)), "ms");
  figure("age99", short(run.age_ms?.p99 ?? percentile(old, 99)), "ms");
  keys("latency-now", [
    [`total ${short(percentile(total, 50))}, p99 ${short(percentile(total, 99))}`, "--total"],
    [`network ${short(percentile(network, 50))}`, "--network"],
  ]);
  const tail = told.age_ms?.["p99.9"];
  keys("age-now", [
    [`p50 ${short(percentile(old, 50))}`],
    [`p99 ${short(percentile(old, 99))}`],
    ...(tail === undefined ? [] : [[`run p99.9 ${short(tail)}`]]),
  ]);
  at("missed").hidden = deadline === null;
  if (deadline !== null) {
    const dd = at("missed").lastElementChild;
    dd.textContent = String(told.deadline_misses ?? 0);
    dd.classList.toggle("bad", Boolean(told.deadline_misses));
    at("missed").firstElementChild.textContent = `Over ${deadline} ms`;
  }
  counted(told);
}

function counted(told) {
  at("counters").hidden = told.captured === undefined;
  if (told.captured === undefined) return;
  const parts = [told.delivered, told.dropped, told.in_flight];
  [...at("flow").children].forEach((bar, i) => bar.style.setProperty("--part", parts[i]));
  const bold = (value) => {
    const b = document.createElement("b");
    b.textContent = value;
    return b;
  };
  const text = [
    "captured ",
    bold(told.captured),
    " = delivered ",
    bold(parts[0]),
    " + dropped ",
    bold(parts[1]),
    " + in flight ",
    bold(parts[2]),
  ];
  if (told.reconnects)
    text.push(
      document.createElement("br"),
      "reconnected ",
      bold(told.reconnects),
      told.reconnects === 1 ? " time" : " times",
    );
  at("counted").replaceChildren(...text);
}
