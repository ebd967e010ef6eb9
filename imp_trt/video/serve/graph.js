// SPDX-License-Identifier: Apache-2.0
// A graph of milliseconds over the last 30 seconds, with a deadline and the values under the pointer.

const WINDOW_S = 30;
const MIN_LEFT = 34, // grows with the labels of the y axis
  RIGHT = 6,
  TOP = 8,
  BOTTOM = 18;

// The smallest of 1, 2, 5 x 10^n that keeps `value` within four steps.
function step(value) {
  const rough = Math.max(value, 1e-3) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
}

export function percentile(values, percent) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const place = ((sorted.length - 1) * percent) / 100,
    low = Math.floor(place);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (place - low);
}

export class Graph {
  // series: [[key of the sample's value, label, name of the CSS color], ...]
  constructor(canvas, series) {
    this.canvas = canvas;
    this.series = series;
    this.samples = [];
    this.now = 0;
    this.deadline = null;
    this.pointer = null;
    this.left = MIN_LEFT;
    canvas.addEventListener("pointermove", (event) => {
      this.pointer = event.offsetX;
      this.draw();
    });
    canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(samples, now, deadline) {
    this.samples = samples.filter((sample) => now - sample.seconds <= WINDOW_S);
    this.now = now;
    this.deadline = deadline;
    this.draw();
  }

  values(name) {
    return this.samples.map((sample) => sample[name]).filter((value) => value !== null);
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(this.canvas);
    this.color = (name) => style.getPropertyValue(name);
    pen.font = `11px ${style.fontFamily}`;
    const all = this.series.flatMap(([name]) => this.values(name));
    // Scaled to the 99th percentile, because outliers would flatten the rest.
    const highest =
      Math.max(percentile(all, 99) ?? 0, this.deadline && all.length ? this.deadline : 0, 1) * 1.08;
    const tick = step(highest),
      steps = Math.ceil(highest / tick),
      top = steps * tick;
    const labels = Array.from({ length: steps + 1 }, (_, i) => String(+(i * tick).toPrecision(3)));
    this.left = Math.max(MIN_LEFT, ...labels.map((label) => Math.ceil(pen.measureText(label).width) + 8));
    const x = (seconds) => width - RIGHT - ((this.now - seconds) / WINDOW_S) * (width - this.left - RIGHT);
    const y = (value) => height - BOTTOM - Math.min(value / top, 1.03) * (height - TOP - BOTTOM);
    if (!all.length) return this.empty(pen, width, height);
    this.grid(pen, width, height, labels, (i) => y(i * tick));
    // The first series is wide and filled, so that it stays visible below an equal one.
    this.series.forEach(([name, , color], i) => {
      this.line(pen, name, this.color(color), x, y, i ? null : height - BOTTOM);
    });
    if (this.deadline) this.mark(pen, width, y(this.deadline));
    if (this.pointer !== null) this.read(pen, width, height, x, y);
  }

  grid(pen, width, height, labels, y) {
    pen.strokeStyle = this.color("--line");
    pen.fillStyle = this.color("--dim");
    pen.lineWidth = 1;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    labels.forEach((label, i) => {
      const level = Math.round(y(i)) + 0.5;
      pen.beginPath();
      pen.moveTo(this.left, level);
      pen.lineTo(width - RIGHT, level);
      pen.stroke();
      pen.fillText(label, this.left - 6, level);
    });
    pen.textBaseline = "alphabetic";
    pen.fillText("now", width - RIGHT, height - 4);
    pen.textAlign = "left";
    pen.fillText(`\u2212${WINDOW_S} s`, this.left, height - 4);
  }

  empty(pen, width, height) {
    pen.textAlign = "center";
    pen.fillStyle = this.color("--dim");
    pen.fillText("not measured yet", width / 2, height / 2);
  }

  line(pen, name, color, x, y, ground) {
    const points = this.samples.filter((s) => s[name] !== null).map((s) => [x(s.seconds), y(s[name])]);
    if (!points.length) return;
    const path = new Path2D();
    points.forEach(([px, py], i) => (i ? path.lineTo(px, py) : path.moveTo(px, py)));
    pen.save();
    pen.beginPath();
    pen.rect(this.left, 0, this.canvas.clientWidth, this.canvas.clientHeight);
    pen.clip();
    if (ground !== null) {
      const area = new Path2D(path);
      area.lineTo(points[points.length - 1][0], ground);
      area.lineTo(points[0][0], ground);
      pen.globalAlpha = 0.16;
      pen.fillStyle = color;
      pen.fill(area);
      pen.globalAlpha = 1;
    }
    pen.strokeStyle = color;
    pen.lineWidth = ground === null ? 1.1 : 2.4;
    pen.lineJoin = "round";
    pen.stroke(path);
    pen.restore();
  }

  mark(pen, width, level) {
    pen.save();
    pen.strokeStyle = pen.fillStyle = this.color("--bad");
    pen.setLineDash([5, 4]);
    pen.beginPath();
    pen.moveTo(this.left, level);
    pen.lineTo(width - RIGHT, level);
    pen.stroke();
    pen.textAlign = "left";
    pen.fillText("deadline", this.left + 4, level - 4);
    pen.restore();
  }

  // Labels of the sample nearest to the pointer.
  read(pen, width, height, x, y) {
    const near = (a, b) =>
      Math.abs(x(a.seconds) - this.pointer) < Math.abs(x(b.seconds) - this.pointer) ? a : b;
    const sample = this.samples.reduce(near),
      at = x(sample.seconds);
    const texts = this.series
      .filter(([name]) => sample[name] !== null)
      .map(([name, label, color]) => [`${label} ${sample[name].toFixed(1)} ms`, color, y(sample[name])]);
    if (!texts.length) return;
    pen.strokeStyle = this.color("--dim");
    pen.beginPath();
    pen.moveTo(at, TOP);
    pen.lineTo(at, height - BOTTOM);
    pen.stroke();
    const wide = Math.max(...texts.map(([text]) => pen.measureText(text).width)) + 28;
    const left = at + 8 + wide > width ? at - 8 - wide : at + 8;
    pen.fillStyle = this.color("--panel");
    pen.strokeStyle = this.color("--line");
    pen.beginPath();
    pen.roundRect(left, TOP, wide, 8 + 16 * texts.length, 5);
    pen.fill();
    pen.stroke();
    pen.textAlign = "left";
    texts.forEach(([text, color, level], i) => {
      pen.fillStyle = this.color(color);
      pen.beginPath();
      pen.arc(at, level, 3, 0, 7);
      pen.fill();
      pen.fillRect(left + 8, TOP + 10 + 16 * i, 8, 3);
      pen.fillStyle = this.color("--ink");
      pen.fillText(text, left + 21, TOP + 15.5 + 16 * i);
    });
  }
}
