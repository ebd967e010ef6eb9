# SPDX-License-Identifier: Apache-2.0
"""The result of an export."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from imp_trt.artifacts.artifact import AnyManifest, canvas_path
from imp_trt.artifacts.manifest import Manifest
from imp_trt.artifacts.network_manifest import NetworkManifest
from imp_trt.export.verification.gates import ENGINE


@dataclass(frozen=True)
class _Report:
    """The result of an export.

    Attributes:
        path: the artifact.
        manifest: its manifest, including the results of the verification.
        seconds: duration.
        also: other files that were written (``keep_onnx``, ``function_free``).
        not_run_reason: why the engine itself was not run on this machine; empty if it was, or if there is
            none.
    """

    path: Path
    manifest: AnyManifest
    seconds: float
    also: tuple[Path, ...] = ()
    not_run_reason: str = ""

    @property
    def graph_only(self) -> bool:
        """Whether an engine's graph was verified and the engine itself was not."""
        verified_on = self.manifest.verification.get("verified_on")
        return self.manifest.kind == "engine" and verified_on not in (None, ENGINE)

    def to_dict(self) -> dict[str, object]:
        """Data for JSON."""
        manifest = self.manifest.to_dict()
        part = manifest.get("canvas_part")
        return {
            "artifact": str(self.path),
            "manifest": f"{self.path}.json",
            "also": [str(path) for path in self.also],
            "precision": self.manifest.precision,
            "target": self.manifest.target,
            "engine": manifest["engine"],
            "verification": dict(self.manifest.verification),
            "benchmark": dict(self.manifest.benchmark),
            "seconds": round(self.seconds, 1),
            **({} if part is None else self._canvas(part)),
        }

    def _canvas(self, part: object) -> dict[str, object]:
        files = {"whole": self.path, "canvas": canvas_path(self.path)}
        return {
            "canvas": str(files["canvas"]),
            "canvas_part": part,
            "bytes": {name: path.stat().st_size for name, path in files.items()},
        }


@dataclass(frozen=True)
class ExportReport(_Report):
    """The result of the export of a segmentation network.

    Attributes:
        path: the artifact.
        manifest: its manifest, including the results of the verification.
        seconds: duration.
        also: other files that were written (``keep_onnx``, ``function_free``).
        not_run_reason: why the engine itself was not run on this machine; empty if it was, or if there is
            none.
    """

    manifest: Manifest

    @property
    def not_here(self) -> str:
        """Deprecated: use not_run_reason."""
        warnings.warn(
            "ExportReport.not_here is deprecated, use ExportReport.not_run_reason",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.not_run_reason


@dataclass(frozen=True)
class NetworkReport(_Report):
    """The result of the export of a third-party ONNX file; the attributes are those of ExportReport."""

    manifest: NetworkManifest
