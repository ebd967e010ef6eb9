# SPDX-License-Identifier: Apache-2.0
"""imp-selftest: run an artifact on its golden frames and compare the outputs, for example at boot."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from imp_trt.cli.common import command_parser, run_command, threads
from imp_trt.cli.printing import print_json, print_line
from imp_trt.errors import ArtifactError, UsageError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imp_trt.artifacts.artifact import AnyManifest
    from imp_trt.artifacts.manifest import Manifest
    from imp_trt.artifacts.network_manifest import NetworkManifest
    from imp_trt.export.verification.arrays import OutputAgreement
    from imp_trt.export.verification.canvas import CanvasAgreement
    from imp_trt.export.verification.gates import Agreement

EXAMPLES = """examples:
  imp-selftest street.fp16.jetson-orin.engine
  imp-selftest street.fp32.onnx --json

Exit code 0: the outputs agree. 3: they differ by more than the gates of the precision.
4: the artifact or its golden frames are damaged, or the engine does not load on this machine."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 passed, 3 outputs differ, 4 artifact not usable."""
    options = parser().parse_args(argv)
    return run_command(lambda: _run(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser(
        "imp-selftest",
        "Run an artifact on its golden frames and compare the outputs with those of the trained network.",
        EXAMPLES,
    )
    p.add_argument("file", type=Path, metavar="FILE", help=".engine or .onnx with manifest and golden frames")
    p.add_argument(
        "--threads",
        type=threads,
        metavar="N",
        help="CPU threads of an .onnx file (default: one per physical core)",
    )
    return p


@dataclass(frozen=True)
class SelfTest:
    """Result of a self-test.

    Attributes:
        path, manifest: the artifact.
        agreement: of its outputs with the golden ones.
        canvas: agreement of its canvas part; None if it has none.
        failures: one message for each gate that failed; empty if the test passed.
        network_ms: median time of a network call.
        load_s, seconds: time to load the artifact, and of the whole test.
    """

    path: Path
    manifest: Manifest
    agreement: Agreement
    failures: tuple[str, ...]
    network_ms: float
    load_s: float
    seconds: float
    canvas: CanvasAgreement | None = None

    def to_dict(self) -> dict[str, object]:
        """Data for JSON."""
        from imp_trt.export.verification.gates import gate_of

        figures = self.agreement.to_dict(gate_of(self.manifest))
        del figures["nms_unsettled"]  # only the export can count it
        return {
            "artifact": str(self.path),
            "passed": not self.failures,
            "failures": list(self.failures),
            "precision": self.manifest.precision,
            "sha256": self.manifest.sha256,
            **figures,
            "network_ms": round(self.network_ms, 2),
            "load_s": round(self.load_s, 3),
            "seconds": round(self.seconds, 3),
            **({} if self.canvas is None else {"canvas": self.canvas.fractions()}),
        }


def self_test(path: Path, threads: int | None = None) -> SelfTest:
    """Run an artifact on its golden frames.

    Args:
        path: .engine or .onnx; manifest and golden frames are next to it.
        threads: CPU threads of an .onnx file; None leaves the choice to ONNX Runtime.

    Raises:
        UsageError: the file is not an artifact.
        ArtifactError: a file is missing or damaged, or was exported without golden frames.
        EngineIncompatible, DependencyMissing, DeviceError: the artifact does not run on this machine.
    """
    from imp_trt.artifacts.artifact import SUFFIXES
    from imp_trt.artifacts.golden import read_golden, unpack_golden
    from imp_trt.artifacts.reading import check_regular, read_manifest
    from imp_trt.backends import CanvasBackend, open_backend
    from imp_trt.export.verification.canvas import replay_canvas
    from imp_trt.export.verification.gates import gate_of
    from imp_trt.export.verification.golden import replay

    start = perf_counter()
    if path.suffix.lower() not in SUFFIXES.values():
        raise UsageError(
            f"file {path}",
            expected=f"an artifact: {' or '.join(SUFFIXES.values())}",
            got=path.suffix or "no suffix",
            fix="export the checkpoint with imp-export",
        )
    check_regular(path, "artifact")
    manifest = read_manifest(path)
    golden = unpack_golden(read_golden(path, manifest), manifest)
    opening = perf_counter()
    backend = open_backend(path, threads=threads)
    try:
        load_s = perf_counter() - opening
        _check_same(path, manifest, backend.manifest)
        agreement, network_ms = replay(backend, golden)
        canvas = None
        if manifest.canvas_part is not None and isinstance(backend, CanvasBackend):
            canvas = replay_canvas(backend, golden)
    finally:
        backend.close()
    gate = gate_of(manifest)
    failures = agreement.failures(gate)
    failures += [] if canvas is None else canvas.failures(gate)
    seconds = perf_counter() - start
    return SelfTest(path, manifest, agreement, tuple(failures), network_ms, load_s, seconds, canvas)


@dataclass(frozen=True)
class NetworkSelfTest:
    """Result of the self-test of a third-party network.

    Attributes:
        path, manifest: the artifact.
        agreement: output -> its agreement with the golden arrays.
        network_ms: time of the network call.
    """

    path: Path
    manifest: NetworkManifest
    agreement: Mapping[str, OutputAgreement]
    network_ms: float

    @property
    def failures(self) -> list[str]:
        """One message for each output that agrees too little; empty if the test passed."""
        from imp_trt.export.verification.arrays import failures

        return failures(self.agreement, self.manifest.precision)

    def to_dict(self) -> dict[str, object]:
        """Data for JSON."""
        return {
            "artifact": str(self.path),
            "passed": not self.failures,
            "failures": self.failures,
            "precision": self.manifest.precision,
            "sha256": self.manifest.sha256,
            "outputs": {name: each.to_dict() for name, each in self.agreement.items()},
            "network_ms": round(self.network_ms, 2),
        }


def self_test_network(path: Path, threads: int | None = None) -> NetworkSelfTest:
    """Run a third-party network on its golden arrays; arguments and errors as for :func:`self_test`.

    Raises:
        VerificationError: an output agrees less than the tolerance of the precision requires.
    """
    from imp_trt.export.verification.arrays import enforce_arrays

    tested = _tested_network(path, threads)
    enforce_arrays(tested.agreement, tested.manifest.precision, exported=True)
    return tested


def _tested_network(path: Path, threads: int | None) -> NetworkSelfTest:
    """:func:`self_test_network` without the tolerance."""
    from imp_trt.artifacts.golden import read_golden
    from imp_trt.artifacts.reading import read_network_manifest
    from imp_trt.backends.opening import open_network
    from imp_trt.export.verification.arrays import (
        MAX_GOLDEN_BYTES,
        TOLERANCES,
        compare_arrays,
        unpack_call,
    )

    manifest = read_network_manifest(path)
    golden = read_golden(path, manifest, MAX_GOLDEN_BYTES)
    call = unpack_call(golden, manifest.inputs, manifest.outputs)
    backend = open_network(path, threads=threads)
    try:
        _check_same(path, manifest, backend.manifest)
        start = perf_counter()
        outputs = backend.run(call[0])
        network_ms = (perf_counter() - start) * 1e3
    finally:
        backend.close()
    tolerance = TOLERANCES[manifest.precision]
    agreement = compare_arrays({"": lambda _: outputs}, [call], manifest.outputs, tolerance)[""]
    return NetworkSelfTest(path, manifest, agreement, network_ms)


def _check_same(path: Path, read: AnyManifest, opened: AnyManifest) -> None:
    """ArtifactError if the artifact was replaced after its golden frames were read."""
    if read.sha256 != opened.sha256:
        raise ArtifactError(
            f"artifact {path}, replaced during its self-test",
            expected=f"the file of the golden frames, sha256 {read.sha256}",
            got=opened.sha256,
            fix="repeat it",
        )


def _is_network(path: Path) -> bool:
    from imp_trt.artifacts.artifact import SUFFIXES
    from imp_trt.artifacts.network_manifest import NetworkManifest
    from imp_trt.artifacts.reading import check_regular, read_any_manifest

    if path.suffix.lower() not in SUFFIXES.values():
        return False
    check_regular(path, "artifact")
    return isinstance(read_any_manifest(path), NetworkManifest)


def _run(options: argparse.Namespace) -> int:
    if _is_network(options.file):
        from imp_trt.export.verification.arrays import enforce_arrays

        tested = _tested_network(options.file, options.threads)
        if options.json:
            print_json(tested.to_dict())
        enforce_arrays(tested.agreement, tested.manifest.precision, exported=True)
        if not options.json:
            shares = ", ".join(f"{name} {each.share:.4%}" for name, each in tested.agreement.items())
            print_line(
                f"PASSED imp-selftest {tested.path}: agreement {shares}, network {tested.network_ms:.1f} ms"
            )
        return 0
    result = self_test(options.file, options.threads)
    if options.json:
        print_json(result.to_dict())
    elif not result.failures:
        agreement = result.agreement
        print_line(
            f"PASSED imp-selftest {result.path}: {agreement.frames} golden frames, labels "
            f"{agreement.label_agreement:.4%} equal, instances F1 {agreement.instance_f1:.4f}, "
            + ("" if result.canvas is None else f"canvas part {result.canvas.label_agreement:.4%}, ")
            + f"network {result.network_ms:.1f} ms, {result.seconds:.2f} s in all"
        )
    if result.failures:
        raise VerificationError(
            f"self-test of {result.path}",
            expected=f"the outputs of the trained network within the {result.manifest.precision} gates",
            got="; ".join(result.failures),
            fix="do not use this artifact here; imp-doctor checks driver and libraries; after an update of "
            "either, build the engine again",
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
