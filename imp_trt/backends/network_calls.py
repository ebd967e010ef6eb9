# SPDX-License-Identifier: Apache-2.0
"""What runs a third-party network: the protocols of its backends, and the check of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import TensorSpec
from imp_trt.artifacts.network_manifest import NetworkManifest
from imp_trt.errors import InvalidInput
from imp_trt.preprocessing.device_arrays import on_device

if TYPE_CHECKING:
    from imp_trt.backends.device_array import DeviceArray

HostArray = NDArray[Any]
"""An array of one of :data:`imp_trt.artifacts.network_manifest.DTYPES` in host memory."""


class NetworkBackend(Protocol):
    """A loaded network of named arrays."""

    manifest: NetworkManifest

    def run(self, inputs: Mapping[str, object]) -> dict[str, HostArray]:
        """Run the network once.

        Args:
            inputs: of :func:`checked_inputs`; not changed.

        Returns:
            new arrays, one for each output.
        """
        ...

    def close(self) -> None:
        """Release the network; idempotent."""
        ...


@runtime_checkable
class DeviceNetworkBackend(NetworkBackend, Protocol):
    """A network on a GPU, which only the thread that ran it first may run."""

    def run_on_device(self, inputs: Mapping[str, object]) -> dict[str, DeviceArray]:
        """As :meth:`NetworkBackend.run`, but returns at once, and the outputs stay on the GPU."""
        ...


def checked_inputs(inputs: object, specs: Sequence[TensorSpec], gpu: bool) -> dict[str, object]:
    """The inputs by name: NumPy arrays in C order, and arrays on the GPU as they are.

    Args:
        inputs: name -> array; NumPy, or what numpy.asarray takes without a copy, such as a PyTorch tensor.
        specs: inputs of the network.
        gpu: whether the network takes arrays on the GPU.

    Raises:
        InvalidInput: a name is missing or unknown, or an array has another type or shape.
    """
    expected = ", ".join(map(str, specs))
    if not isinstance(inputs, Mapping):
        raise InvalidInput(
            "inputs of the network",
            expected=f"a dictionary: {expected}",
            got=type(inputs).__name__,
            fix="pass {name: array}; Engine.inputs lists them",
        )
    names = {spec.name for spec in specs}
    if set(inputs) != names:
        missing, unknown = sorted(names - set(inputs)), sorted(map(str, set(inputs) - names))
        got = [f"no {name!r}" for name in missing] + [f"an unknown {name!r}" for name in unknown]
        raise InvalidInput("inputs of the network", expected=expected, got=", ".join(got))
    return {spec.name: _checked(inputs[spec.name], spec, gpu) for spec in specs}


def _checked(value: object, spec: TensorSpec, gpu: bool) -> object:
    what = f"input {spec.name!r}"
    if not isinstance(value, np.ndarray) and on_device(value):
        if gpu:
            return value  # the engine checks it
        raise InvalidInput(
            what,
            expected=f"{spec} in host memory",
            got="an array on the GPU",
            fix="pass tensor.cpu(); or build an engine: imp-export FILE.onnx --target tensorrt",
        )
    try:
        array = np.asarray(value)
    except Exception as error:  # a tensor that requires gradients, a ragged list, ...
        raise InvalidInput(
            what, expected=spec, got=f"{type(error).__name__}: {error}", fix="pass a NumPy array"
        ) from error
    if array.dtype != spec.dtype:
        raise InvalidInput(
            what, expected=spec, got=f"{array.dtype}{list(array.shape)}", fix=f"array.astype({spec.dtype!r})"
        )
    if array.shape != spec.shape:
        raise InvalidInput(
            what,
            expected=spec,
            got=f"{array.dtype}{list(array.shape)}",
            fix="the shapes were fixed when the file was exported: imp-export FILE.onnx --shape NAME=1x3x...",
        )
    # ascontiguousarray would turn a scalar into a vector.
    return array if array.flags.c_contiguous else array.copy(order="C")
