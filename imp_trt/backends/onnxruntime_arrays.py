# SPDX-License-Identifier: Apache-2.0
"""A third-party network in ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from imp_trt.artifacts.manifest import TensorSpec
from imp_trt.artifacts.network_manifest import NetworkManifest
from imp_trt.artifacts.reading import read_network
from imp_trt.backends.network_calls import HostArray
from imp_trt.backends.onnx_bounds import check_bounds
from imp_trt.backends.onnxruntime import OrtSession, check_nodes, one_line, open_session
from imp_trt.backends.onnxruntime_providers import OrtDevice
from imp_trt.cuda.cpus import usable_cores
from imp_trt.data.native_calls import call_after_fork, native_call, never_release, raised_by
from imp_trt.errors import ArtifactError, ImpTrtError, InvalidInput


class OnnxRuntimeArrays:
    """An ONNX artifact in ONNX Runtime. See :class:`imp_trt.backends.network_calls.NetworkBackend`.

    A forked process opens the file again when it first runs the network.

    Args:
        path, threads, device: see :class:`imp_trt.backends.onnxruntime.OnnxRuntimeBackend`.

    Raises:
        ArtifactError: the file is missing or damaged, or differs from its manifest.
        DependencyMissing: onnxruntime is not installed, or lacks the device's provider.
        DeviceError: the GPU cannot be used.
        InvalidInput: another device.
    """

    manifest: NetworkManifest

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int | None = None, device: str | None = None
    ) -> None:
        self._device = OrtDevice.parse(device)
        self._threads = threads or usable_cores()
        self._closed = False
        self._session: OrtSession | None = self._open(path)
        self._path = os.path.abspath(path)  # also valid after a change of the current folder
        call_after_fork(self)

    def _open(self, path: str | os.PathLike[str]) -> OrtSession:
        artifact = read_network(path)
        self.manifest = artifact.manifest
        check_bounds(artifact.payload, str(artifact.path))
        session = open_session(artifact.payload, str(artifact.path), self._threads, self._device)
        check_nodes("inputs", session.get_inputs(), self.manifest.inputs, path)
        check_nodes("outputs", session.get_outputs(), self.manifest.outputs, path)
        return session

    def run(self, inputs: Mapping[str, object]) -> dict[str, HostArray]:
        """See :meth:`imp_trt.backends.network_calls.NetworkBackend.run`."""
        if self._closed:
            raise InvalidInput("engine is closed", fix="open the artifact again")
        if self._session is None:
            self._session = self._open_again()
        names = [spec.name for spec in self.manifest.outputs]
        feeds: dict[str, Any] = dict(inputs)
        try:
            with native_call():
                arrays = self._session.run(names, feeds)
        except Exception as error:
            if not raised_by("onnxruntime", error):
                raise
            raise ImpTrtError("the network failed in ONNX Runtime", got=one_line(error)) from error
        found = dict(zip(names, arrays, strict=True))
        for spec in self.manifest.outputs:
            _check_output(found[spec.name], spec)
        return found

    def close(self) -> None:
        """Release the session; idempotent."""
        self._session, self._closed = None, True

    def after_fork(self) -> None:
        """The session's threads do not exist in a forked process: never use or end this one there."""
        if self._session is not None:
            never_release(self._session)
            self._session = None

    def _open_again(self) -> OrtSession:
        before = self.manifest.sha256
        if self._device.on_gpu:
            raise InvalidInput(
                "a network on a GPU in a forked process",
                expected="the process that opened it",
                fix="open an Engine in the new process, and start it by spawn",
            )
        session = self._open(self._path)
        if self.manifest.sha256 != before:
            raise ArtifactError(
                f"artifact {self._path}, opened again in a forked process",
                expected=f"the file that was opened before, sha256 {before}",
                got=self.manifest.sha256,
                fix="open an Engine in the new process",
            )
        return session


def _check_output(array: HostArray, spec: TensorSpec) -> None:
    if array.shape != spec.shape:
        raise ImpTrtError(
            f"output {spec.name!r} of the network", expected=spec, got=f"{array.dtype}{list(array.shape)}"
        )
