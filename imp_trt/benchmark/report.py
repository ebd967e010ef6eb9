# SPDX-License-Identifier: Apache-2.0
"""Report of a measurement, as data for JSON and as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from imp_trt._deprecated import renamed_fields
from imp_trt.benchmark.carried import CanvasSaving
from imp_trt.benchmark.compare import Agreement, Comparison
from imp_trt.benchmark.gates import Gate, Verdict
from imp_trt.benchmark.machine import MachineInfo
from imp_trt.benchmark.measure import Latency, Throughput
from imp_trt.benchmark.samples import (
    STAGES,
    TEMPORAL_STAGES,
    figures,
    frames_needed,
    percentile_name,
    rounded,
)
from imp_trt.errors import printable

WIDTH = 100

_LABEL, _COLUMN = 12, 9
_PIPELINE_PERCENTILES = (50, 99)


class ModelInfo(TypedDict):
    """The measured model."""

    file: str
    kind: str
    sha256: str
    weights_sha256: str
    backend: str
    backend_version: str | None
    precision: str
    target: str
    network_size: list[int]
    batch: int
    detections: int | None
    classes: int


class FramesInfo(TypedDict):
    """The frames of a measurement; sizes is the number of different sizes."""

    source: str
    decoder: str
    size: list[int]
    sizes: int


@renamed_fields(shares="percentiles")
@dataclass(frozen=True)
class Report:
    """Result of a measurement.

    Attributes:
        model: the measured model.
        frames: the frames, and how they were decoded.
        machine: see :func:`imp_trt.benchmark.machine.describe`.
        load_ms: time to open the model, including the import of libraries.
        percentiles: percentiles to report, 0 to 100.
        absent: stage -> reason why it was not measured.
        warnings: conditions that may have affected the results.
        measured: UTC time at the end, ISO 8601.
    """

    model: ModelInfo
    frames: FramesInfo
    machine: MachineInfo
    load_ms: float
    latency: Latency
    throughput: Throughput
    percentiles: tuple[float, ...]
    absent: dict[str, str] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    measured: str = ""

    def values(self, gates: Sequence[Gate]) -> dict[str, float]:
        """Return the values of the metrics of the gates, as far as they were measured."""
        known = {"fps": self.throughput.per_second, "load": self.load_ms, "first": self.latency.first_ms}
        known |= {f"{c.name}.ratio": c.ratios[0] for c in self.comparisons}
        for gate in gates:
            values = self.latency.samples.values(gate.stage) if gate.stage else []
            if values:
                statistic = gate.metric[len(gate.stage or "") + 1 :]
                value = figures(values, [gate.percentage] if gate.percentage else [])[statistic]
                if value is not None:
                    known[gate.metric] = value
        return known

    def to_dict(self) -> dict[str, object]:
        """Return the report as data for JSON; times in milliseconds, rounded to microseconds."""
        latency = self.latency
        saving = CanvasSaving.of(latency.samples)
        data: dict[str, object] = {
            "model": self.model,
            "frames": self.frames,
            "machine": self.machine,
            "measured": self.measured,
            "load_ms": self.load_ms,
            "first_frame_ms": latency.first_ms,
            "warm_up": {"frames": latency.warmup_frames, "ms": latency.warmup_ms},
            "latency": {
                "frames": len(latency.samples),
                "seconds": latency.seconds,
                "ms": latency.samples.to_dict(self.percentiles),
                "not_measured": self.absent,
            },
            "canvas": None if saving is None else saving.to_dict(),
            "throughput": self.throughput.to_dict(),
            "comparisons": [_rounded_comparison(comparison) for comparison in self.comparisons],
            "asserts": self.verdicts,
            "warnings": self.warnings,
            "notes": self.notes(),
        }
        return {key: value if key == "comparisons" else rounded(value) for key, value in data.items()}

    def notes(self) -> list[str]:
        """Return remarks on the results."""
        count = len(self.latency.samples)
        notes = [
            f"{percentile_name(percentage)} needs {frames_needed(percentage):,} frames, there are {count:,}"
            for percentage in self.percentiles
            if count < frames_needed(percentage)
        ]
        for reason in dict.fromkeys(self.absent.values()):
            stages = " and ".join(stage for stage, why in self.absent.items() if why == reason)
            notes.append(f"no {stages}: {reason}")
        if self.model["batch"] > 1:
            notes.append(
                f"the batch size of the network is {self.model['batch']}; each call contained one frame, the "
                "other images were gray"
            )
        if self.frames["sizes"] > 1:
            notes.append(f"the frames have {self.frames['sizes']} different sizes; the last one is reported")
        return notes

    def text(self) -> str:
        """Return the report as text, at most WIDTH columns wide with the default percentiles."""
        lines = [line for name, text in self._head() for line in labeled(name, text)]
        lines += ["", *self._table(), ""]
        lines += [line for name, text in self._foot() for line in labeled(name, text)]
        return "\n".join(map(printable, lines))

    def _head(self) -> Iterator[tuple[str, str]]:
        m, f, machine = self.model, self.frames, self.machine
        yield (
            "model",
            f"{m['file']}: {m['precision']}, {m['backend']} {m['backend_version'] or ''}".rstrip()
            + f", network {m['network_size'][1]}x{m['network_size'][0]}, batch {m['batch']}, "
            f"{m['detections']} detections, sha256 {m['sha256'][:12]}",
        )
        threads = "default number of threads"
        if machine["threads"]:
            threads = f"{machine['threads']} thread" + ("s" if machine["threads"] > 1 else "")
        gpu = machine["gpu"]
        yield (
            "machine",
            f"{machine['cpu']}, {machine['cpus']} CPUs, {threads}, {machine['platform']}"
            + (f", {gpu['name']} ({gpu['compute_capability']})" if gpu else ", no GPU used")
            + (f", load {machine['load_average']} before" if machine["load_average"] is not None else ""),
        )
        yield "frames", f"{f['source']}, {f['size'][1]}x{f['size'][0]}; decode: {f['decoder']}"
        latency = self.latency
        yield (
            "start",
            f"load {_ms(self.load_ms)} ms, including libraries; first frame {_ms(latency.first_ms)} ms; "
            f"warm-up {latency.warmup_frames} frames in {_ms(latency.warmup_ms)} ms, not counted",
        )

    def _table(self) -> Iterator[str]:
        names = ["mean", *(percentile_name(percentage) for percentage in self.percentiles), "max"]
        count, piped = len(self.latency.samples), self.throughput.frames
        left = f"{'ms/frame':<{_LABEL}}" + f"{count} frames, one at a time".rjust(_COLUMN * len(names))
        yield f"{left} | pipeline, {piped} frames"
        heads = "".join(name.rjust(_COLUMN) for name in names)
        inner = "".join(f"p{percentage}".rjust(_COLUMN) for percentage in _PIPELINE_PERCENTILES)
        yield f"{'stage':<{_LABEL}}{heads} |{inner}"
        measured = self.latency.samples.to_dict(self.percentiles)
        for stage in (*STAGES, *(stage for stage in TEMPORAL_STAGES if stage in measured)):
            values = measured.get(stage, {})
            cells = "".join(_cell(values.get(name)) for name in names)
            within = self.throughput.stages.get(stage, {})
            others = "".join(
                _cell(within.get(f"p{percentage}") if piped >= frames_needed(percentage) else None)
                for percentage in _PIPELINE_PERCENTILES
            )
            yield f"{stage:<{_LABEL}}{cells} |{others}"

    def _foot(self) -> Iterator[tuple[str, str]]:
        interval = self.throughput.interval_ms
        yield (
            "pipeline",
            f"{self.throughput.per_second:.1f} frames/s with decode, network and drawing in parallel; "
            f"interval {_ms(interval['mean'])} ms (mean), {_ms(interval['max'])} ms (max)",
        )
        saving = CanvasSaving.of(self.latency.samples)
        if saving is not None:
            yield "canvas", saving.text()
        for comparison in self.comparisons:
            yield comparison.name, comparison_line(comparison)
            for note in comparison.notes:
                yield "", note
        for note in self.notes():
            yield "note", note
        for warning in self.warnings:
            yield "warning", warning
        for verdict in self.verdicts:
            unit = f" {verdict['unit']}" if verdict["unit"] else ""
            yield (
                "assert",
                f"{verdict['gate']}: {'passed' if verdict['held'] else 'MISSED'}, {verdict['metric']} is "
                f"{verdict['value']:.2f}{unit}",
            )


def comparison_line(comparison: Comparison) -> str:
    """Return one line with the times of both and the agreement of their outputs."""
    ratio, low, high = comparison.ratios
    text = (
        f"{comparison.title}: {_ms(comparison.baseline_ms)} ms, artifact {_ms(comparison.artifact_ms)} ms; "
        f"ratio {ratio:.2f} ({low:.2f} to {high:.2f} over {len(comparison.rounds)} alternating rounds)"
    )
    if low <= 1 <= high:
        text += ", no significant difference"
    return f"{text}; {_agreement_text(comparison.agreement)}"


def _agreement_text(agreement: Agreement) -> str:
    if "label_agreement" in agreement:
        return (
            f"verified on {agreement['frames']} frames: {agreement['label_agreement']:.4%} of labels equal, "
            f"{agreement['instances_matched']} of {agreement['instances_pytorch']} instances matched"
        )
    if "instances_torchvision" in agreement:
        return (
            f"verified against torchvision: {agreement['instances_matched']} of "
            f"{agreement['instances_torchvision']} instances matched"
        )
    return "not verified"


def _rounded_comparison(comparison: Comparison) -> dict[str, object]:
    # The agreement is not rounded: its sixth digit is significant.
    data = comparison.to_dict()
    return {key: value if key == "agreement" else rounded(value) for key, value in data.items()}


def labeled(name: str, text: str) -> list[str]:
    """Wrap text to lines of at most WIDTH columns, with the name in front of the first."""
    lines = textwrap.wrap(text, WIDTH - _LABEL, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{name if i == 0 else '':<{_LABEL}}{line}".rstrip() for i, line in enumerate(lines)]


def _cell(value: float | None) -> str:
    return ("-" if value is None else _ms(value)).rjust(_COLUMN)


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}"
