"""What a measurement found: plain data for machines, a table for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imp_trt.benchmark.compare import Comparison
from imp_trt.benchmark.gates import Gate
from imp_trt.benchmark.measure import Latency, Throughput
from imp_trt.benchmark.samples import STAGES, figures, frames_needed, percentile_name, rounded

WIDTH = 100

_LABEL, _COLUMN = 12, 9
_PIPELINE_SHARES = (50, 99)


@dataclass(frozen=True)
class Report:
    """One measurement.

    Attributes:
        model: what was measured: artifact, hashes, backend, precision, sizes; plain data.
        frames: which frames, and what decoding them is; plain data.
        machine: see :func:`imp_trt.benchmark.machine.describe`.
        load_ms: opening the model, the libraries' import included.
        shares: percentiles to report, in percent.
        absent: stage -> why it was not measured.
        warnings: what makes the figures doubtful.
        measured: UTC time at the end, ISO 8601.
    """

    model: dict[str, Any]
    frames: dict[str, Any]
    machine: dict[str, Any]
    load_ms: float
    latency: Latency
    throughput: Throughput
    shares: tuple[float, ...]
    absent: dict[str, str] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    measured: str = ""

    def values(self, gates: Sequence[Gate]) -> dict[str, float]:
        """What the gates ask for, as far as it was measured."""
        known = {"fps": self.throughput.per_second, "load": self.load_ms, "first": self.latency.first_ms}
        known |= {f"{c.name}.ratio": c.ratios[0] for c in self.comparisons}
        for gate in gates:
            values = self.latency.samples.values(gate.stage) if gate.stage else []
            if values:
                statistic = gate.metric[len(gate.stage or "") + 1 :]
                value = figures(values, [gate.share] if gate.share else [])[statistic]
                if value is not None:
                    known[gate.metric] = value
        return known

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; times in milliseconds, rounded to the microsecond."""
        latency = self.latency
        data: dict[str, Any] = {
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
                "ms": latency.samples.to_dict(self.shares),
                "not_measured": self.absent,
            },
            "throughput": self.throughput.to_dict(),
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "asserts": self.verdicts,
            "warnings": self.warnings,
            "notes": self.notes(),
        }
        plain: dict[str, Any] = rounded(data)
        for comparison, exact in zip(plain["comparisons"], data["comparisons"], strict=True):
            comparison["agreement"] = exact["agreement"]  # shares, whose sixth digit counts
        return plain

    def notes(self) -> list[str]:
        """What a reader of the figures must know."""
        count = len(self.latency.samples)
        notes = [
            f"{percentile_name(share)} needs {frames_needed(share):,} frames, there are {count:,}"
            for share in self.shares
            if count < frames_needed(share)
        ]
        for reason in dict.fromkeys(self.absent.values()):
            stages = " and ".join(stage for stage, why in self.absent.items() if why == reason)
            notes.append(f"no {stages}: {reason}")
        if self.model["batch"] > 1:
            notes.append(
                f"the network takes {self.model['batch']} frames a call; here each call holds one, and the "
                "rest is gray"
            )
        if self.frames["sizes"] > 1:
            notes.append(f"the frames have {self.frames['sizes']} different sizes; the latest is named")
        return notes

    def text(self) -> str:
        """The report as text, at most WIDTH columns with the default percentiles."""
        lines = [line for name, text in self._head() for line in labeled(name, text)]
        lines += ["", *self._table(), ""]
        lines += [line for name, text in self._foot() for line in labeled(name, text)]
        return "\n".join(lines)

    def _head(self) -> Iterator[tuple[str, str]]:
        m, f, machine = self.model, self.frames, self.machine
        yield (
            "model",
            f"{m['file']}: {m['precision']}, {m['backend']} {m['backend_version'] or ''}".rstrip()
            + f", network {m['network_size'][1]}x{m['network_size'][0]}, batch {m['batch']}, "
            f"{m['detections']} detections, sha256 {m['sha256'][:12]}",
        )
        threads = "threads as the library chooses"
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
            f"load {_ms(self.load_ms)} ms, libraries included; first frame {_ms(latency.first_ms)} ms; "
            f"warm-up {latency.warmup_frames} frames in {_ms(latency.warmup_ms)} ms, not counted",
        )

    def _table(self) -> Iterator[str]:
        names = ["mean", *(percentile_name(share) for share in self.shares), "max"]
        count, piped = len(self.latency.samples), self.throughput.frames
        left = f"{'ms a frame':<{_LABEL}}" + f"{count} frames, one at a time".rjust(_COLUMN * len(names))
        yield f"{left} | pipeline, {piped} frames"
        heads = "".join(name.rjust(_COLUMN) for name in names)
        inner = "".join(f"p{share}".rjust(_COLUMN) for share in _PIPELINE_SHARES)
        yield f"{'stage':<{_LABEL}}{heads} |{inner}"
        measured = self.latency.samples.to_dict(self.shares)
        for stage in STAGES:
            found = measured.get(stage, {})
            cells = "".join(_cell(found.get(name)) for name in names)
            within = self.throughput.stages.get(stage, {})
            others = "".join(
                _cell(within.get(f"p{share}") if piped >= frames_needed(share) else None)
                for share in _PIPELINE_SHARES
            )
            yield f"{stage:<{_LABEL}}{cells} |{others}"

    def _foot(self) -> Iterator[tuple[str, str]]:
        interval = self.throughput.interval_ms
        yield (
            "pipeline",
            f"{self.throughput.per_second:.1f} frames/s: decode, network and drawing overlap, a frame every "
            f"{_ms(interval['mean'])} ms (at most {_ms(interval['max'])})",
        )
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
                f"{verdict['gate']}: {'held' if verdict['held'] else 'MISSED'}, {verdict['metric']} is "
                f"{verdict['value']:.2f}{unit}",
            )


def comparison_line(comparison: Comparison) -> str:
    """Who was how fast, and whether the answers agree."""
    data = comparison.to_dict()
    low, high = data["ratio_min"], data["ratio_max"]
    text = (
        f"{comparison.title}: {_ms(data['rival_ms'])} ms, the artifact {_ms(data['artifact_ms'])} ms; "
        f"ratio {data['ratio']:.2f} ({low:.2f} to {high:.2f} over {data['rounds']} rounds, taking turns)"
    )
    if low <= 1 <= high:
        text += ", which shows no difference"
    return f"{text}; {_agreement(data['agreement'])}"


def _agreement(found: Mapping[str, Any]) -> str:
    if "label_agreement" in found:
        return (
            f"checked before on {found['frames']} frames: {found['label_agreement']:.4%} of labels equal, "
            f"{found['instances_matched']} of {found['instances_pytorch']} instances matched"
        )
    if "instances_torchvision" in found:
        return (
            f"checked before against torchvision's own: {found['instances_matched']} of "
            f"{found['instances_torchvision']} instances matched"
        )
    return "not checked"


def labeled(name: str, text: str) -> list[str]:
    """Lines of at most WIDTH columns with the name before the first."""
    lines = textwrap.wrap(text, WIDTH - _LABEL, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{name if i == 0 else '':<{_LABEL}}{line}".rstrip() for i, line in enumerate(lines)]


def _cell(value: float | None) -> str:
    return ("-" if value is None else _ms(value)).rjust(_COLUMN)


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}"
