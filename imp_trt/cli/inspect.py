# SPDX-License-Identifier: Apache-2.0
"""imp-inspect: show the contents of an engine, ONNX artifact or checkpoint, and whether it can be loaded."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imp_trt.artifacts.artifact import AnyManifest
from imp_trt.artifacts.manifest import EXPORT_AGAIN, Manifest
from imp_trt.artifacts.network_manifest import RUNS, NetworkManifest
from imp_trt.artifacts.plan_header import HEADER_BYTES, PlanHeader, read_plan_header
from imp_trt.backends.preflight import TITLES, problems
from imp_trt.cli.common import command_parser, run_command
from imp_trt.cli.printing import print_json, print_line
from imp_trt.cli.unused_options import warn_of_unused
from imp_trt.cuda.platform import Gpu, Platform
from imp_trt.data.files import open_regular
from imp_trt.errors import ArtifactError, CheckpointError, DependencyMissing, ImpTrtError

EXAMPLES = """examples:
  imp-inspect street.fp16.drive-orin.engine        (exit code 0 if it can be loaded on this machine)
  imp-inspect street.fp32.onnx --json

Engines are only parsed; they are not passed to TensorRT."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 loadable, 4 not loadable, 5 dependency or GPU missing."""
    options = parser().parse_args(argv)
    return run_command(lambda: _run(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser(
        "imp-inspect",
        "Show the contents of a model file, and whether it can be loaded on this machine.",
        EXAMPLES,
    )
    p.add_argument("file", type=Path, metavar="FILE", help=".engine, .onnx, .safetensors or .pt")
    p.add_argument("--device", type=int, metavar="N", help="for an engine: index of the GPU (default: 0)")
    return p


@dataclass
class Inspection:
    """Result of the inspection of a file.

    Attributes:
        path, size: the file, and its size in bytes.
        manifest: its manifest, or that in the file itself; None if it cannot be read.
        header: header of an engine, None for other files.
        platform: this machine; for engines only.
        errors: reasons why the file cannot be loaded; empty if it can.
    """

    path: Path
    size: int
    manifest: AnyManifest | None = None
    header: PlanHeader | None = None
    platform: Platform | None = None
    errors: list[ImpTrtError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 loadable, 4 not loadable, 5 loadable after a dependency is installed."""
        if all(isinstance(error, DependencyMissing) for error in self.errors):
            return DependencyMissing.exit_code if self.errors else 0
        return ArtifactError.exit_code


def inspect(path: Path, device: int = 0) -> Inspection:
    """Inspect a file and check whether it can be loaded on this machine.

    Raises:
        ArtifactError: the file does not exist.
        InvalidInput: its suffix is not that of a model.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEADER_BYTES)
    except OSError as error:
        raise ArtifactError(
            f"file {path}", expected="a readable file", got=error.strerror, fix="check the path"
        ) from error
    found = Inspection(path, size)
    if path.suffix.lower() == ".engine" or head[:4] in (b"ftrt", b"vtrt"):
        _inspect_engine(found, head, device)
    else:
        _inspect_other(found)
    return found


def _inspect_engine(found: Inspection, head: bytes, device: int) -> None:
    from imp_trt.artifacts.reading import read_any_manifest, read_artifact, read_network

    found.platform = Platform.detect(device)
    try:
        found.header = read_plan_header(head)
        if found.header.size not in (None, found.size):
            raise ArtifactError(
                f"engine {found.path}",
                expected=f"{found.header.size} bytes, as its header says",
                got=found.size,
                fix=f"the file is cut off or damaged; copy it again, or {EXPORT_AGAIN}",
            )
    except ArtifactError as error:
        found.errors.append(error)
    try:
        found.manifest = read_any_manifest(found.path)
        if isinstance(found.manifest, NetworkManifest):
            read_network(found.path)
        else:
            read_artifact(found.path, canvas=True)
    except ArtifactError as error:
        found.errors.append(error)
    if found.manifest is not None and found.header is not None:
        found.errors += [p.error() for p in problems(found.manifest, found.header, found.platform)]


def _inspect_other(found: Inspection) -> None:
    from imp_trt.artifacts.reading import read_any_manifest, read_artifact
    from imp_trt.backends import open_backend
    from imp_trt.backends.opening import open_network

    try:
        if found.path.suffix.lower() == ".onnx":
            found.manifest = read_any_manifest(found.path)
            if isinstance(found.manifest, NetworkManifest):
                open_network(found.path).close()
                return
            if found.manifest.canvas_part is not None:
                read_artifact(found.path, canvas=True)
        backend = open_backend(found.path)
        found.manifest = backend.manifest
        backend.close()
    except (ArtifactError, CheckpointError, DependencyMissing) as error:
        found.errors.append(error)


def _run(options: argparse.Namespace) -> int:
    found = inspect(options.file, options.device or 0)
    if options.device is not None and found.platform is None:
        warn_of_unused(["--device"], "the file is not an engine")
    if options.json:
        print_json(_to_dict(found))
    else:
        for label, text in _lines(found):
            print_line(f"{label:<12}{text}".rstrip())
    return found.exit_code


def _to_dict(found: Inspection) -> dict[str, object]:
    return {
        "file": str(found.path),
        "bytes": found.size,
        "header": dataclasses.asdict(found.header) if found.header else None,
        "manifest": found.manifest.to_dict() if found.manifest else None,
        "here": _platform_dict(found.platform) if found.platform else None,
        "loads": not found.errors,
        "exit_code": found.exit_code,
        "problems": [
            {
                "what": error.what,
                "expected": None if error.expected is None else str(error.expected),
                "got": None if error.got is None else str(error.got),
                "fix": error.fix,
                "exit_code": error.exit_code,
            }
            for error in found.errors
        ],
    }


def _platform_dict(platform: Platform) -> dict[str, object]:
    gpu, plugins = platform.gpu, platform.plugins
    return {
        "name": platform.name,
        "tensorrt": platform.tensorrt,
        "tensorrt_rtx": platform.tensorrt_rtx,
        "gpu": dataclasses.asdict(gpu) if isinstance(gpu, Gpu) else None,
        "plugins": plugins if isinstance(plugins, str) else None,
    }


def _lines(found: Inspection) -> Iterator[tuple[str, str]]:
    yield "file", f"{found.path} ({found.size:,} bytes)"
    if found.header is not None:
        yield "header", _header(found.header)
    if found.manifest is not None:
        yield from _manifest(found.manifest)
    if found.platform is not None:
        yield "platform", _platform_text(found.platform)
    yield "loadable", "no" if found.errors else "yes"
    for error in found.errors:
        reason = ImpTrtError(error.what, expected=error.expected, got=error.got)
        yield "  reason", " ".join(str(reason).split())
        if error.fix:
            yield "  fix", error.fix


def _header(header: PlanHeader) -> str:
    if header.backend is None:
        return "none: this is not an engine"
    text = f"{TITLES[header.backend]} {header.version or '(version unknown)'}"
    if header.compute_capabilities:
        text += f", compute capability {', '.join(header.compute_capabilities)}"
    return text


def _manifest(manifest: AnyManifest) -> Iterator[tuple[str, str]]:
    yield "kind", f"{manifest.kind}, {manifest.precision}, for {manifest.target}"
    yield from _built_by(manifest)
    if isinstance(manifest, NetworkManifest):
        yield from _network(manifest)
    else:
        yield from _segmenter(manifest)
    if manifest.golden_sha256:
        yield "golden", f"sha256 {manifest.golden_sha256}; imp-selftest replays it"
    yield from _measured(manifest.benchmark.get("imp_bench"))
    producers = ", ".join(f"{name} {version}" for name, version in manifest.producer.items())
    yield "created", f"{manifest.created} by {producers or 'unknown'}".strip()
    if isinstance(manifest, Manifest) and manifest.terms:
        yield "license", " ".join(manifest.terms.split())


def _built_by(manifest: AnyManifest) -> Iterator[tuple[str, str]]:
    engine = manifest.engine
    if engine is not None:
        capabilities = ", ".join(engine.compute_capabilities)
        if engine.hardware_compatibility != "none":
            capabilities += f" ({engine.hardware_compatibility})"
        later = ", version compatible" if engine.version_compatible else ""
        yield "built by", f"{TITLES[engine.backend]} {engine.version}{later}"
        yield "built for", f"compute capability {capabilities}, {engine.platform}"
        yield "layers", ", ".join(f"{n} {name}" for name, n in engine.layer_precisions.items()) or "unknown"


def _network(manifest: NetworkManifest) -> Iterator[tuple[str, str]]:
    """The part of a third-party network."""
    engine = manifest.engine
    yield "contract", f"{manifest.contract} {manifest.contract_version}: imp_trt.Engine runs it"
    for what, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        for i, spec in enumerate(specs):
            yield "" if i else what, str(spec)
    for i, (name, count) in enumerate(manifest.ops.items()):
        form = f" ({engine.operators[name]})" if engine and name in engine.operators else ""
        yield "" if i else "operators", f"{name}{form}: {count}"
    yield "source", f"ONNX file, sha256 {manifest.source_sha256}"
    figures = manifest.verification
    if not figures.get("verified_on"):
        yield "verified", f"no: {figures.get('skipped', 'not recorded')}"
        return
    yield "verified", f"on {figures['verified_on']}, {figures.get('source', '')}"
    for key, how in RUNS.items():
        outputs = figures.get(key)
        for name, each in outputs.items() if isinstance(outputs, dict) else ():
            if isinstance(each, dict) and isinstance(each.get("agreeing"), float):
                yield "", f"{name}: {each['agreeing']:.4%} agree{how}"


def _segmenter(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The part of a segmentation network."""
    engine, contract = manifest.engine, manifest.input
    padding = f" padded with {contract.pad_value}" if contract.fit == "letterbox" else ""
    yield "input", f"{contract.spec}, {contract.color.upper()}, {contract.fit}{padding}"
    for i, spec in enumerate(manifest.outputs):
        yield "" if i else "outputs", str(spec)
    if manifest.score_threshold is not None:
        yield "", f"instances with scores above {manifest.score_threshold:g}"
    part = manifest.canvas_part
    if part is not None:
        checked = part.verification.get("label_agreement")
        figure = f"; labels {checked:.4%} equal to PyTorch" if isinstance(checked, float) else ""
        yield "canvas part", f"{part.spec} as second input (imp-segment --detect-every){figure}"
    yield "classes", f"{len(manifest.classes)}: {', '.join(manifest.classes.names)}"
    for i, (name, details) in enumerate(manifest.ops.items()):
        form = f" ({engine.operators[name]})" if engine and name in engine.operators else ""
        values = ", ".join(f"{key} {value}" for key, value in details.items())
        yield "" if i else "operators", f"{name}{form}: {values}"
    yield "weights", f"sha256 {manifest.weights_sha256 or 'unknown'}"
    yield from _figures(manifest)


def _figures(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if manifest.kind == "checkpoint":
        return
    figures = manifest.verification
    if not figures.get("verified_on"):
        yield "verified", f"no: {figures.get('skipped', 'not recorded')}"
        return
    parts = [f"on {figures['verified_on']}"]
    if isinstance(figures.get("label_agreement"), float):
        parts.append(f"labels {figures['label_agreement']:.4%} equal to PyTorch")
    if isinstance(figures.get("instance_f1"), float):
        parts.append(f"instances F1 {figures['instance_f1']:.4f}")
    yield "verified", ", ".join(parts)


def _measured(figures: object) -> Iterator[tuple[str, str]]:
    """Results that imp-bench --record wrote: end-to-end latency, throughput and machine."""
    try:
        latency, machine = figures["latency"]["ms"]["end-to-end"], figures["machine"]  # type: ignore[index]
        where = machine["gpu"]["name"] if machine["gpu"] else machine["cpu"]
        shares = ", ".join(f"{n} {latency[n]:.1f}" for n in ("p50", "p99") if latency.get(n) is not None)
        fps = figures["frames_per_second"]  # type: ignore[index]
        canvas, backend = figures.get("canvas"), figures.get("backend")  # type: ignore[attr-defined]
        conditions = f" by {backend}" if isinstance(backend, str) else ""
        if canvas is not None:
            conditions += f", with the detector on {canvas['detected']} of {canvas['frames']} frames"
        yield "measured", f"{shares} ms end to end, {fps:.1f} frames/s on {where}{conditions}"
    except (AttributeError, KeyError, TypeError, ValueError):
        return  # not recorded, or by another version


def _platform_text(platform: Platform) -> str:
    parts = [platform.name]
    for backend in TITLES:
        parts.append(f"{TITLES[backend]} {platform.version(backend) or '-'}")
    gpu = platform.gpu
    parts.append(f"{gpu.name} ({gpu.compute_capability})" if isinstance(gpu, Gpu) else "no usable GPU")
    return ", ".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
