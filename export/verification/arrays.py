# SPDX-License-Identifier: Apache-2.0
"""Inputs to verify a third-party network on, and the comparison of its outputs."""

from __future__ import annotations

import io
import keyword
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import TensorSpec
from imp_trt.artifacts.network_manifest import NetworkPrecision
from imp_trt.artifacts.npz import read_arrays
from imp_trt.artifacts.reading import read_bounded
from imp_trt.errors import ArtifactError, UsageError, VerificationError

Arrays = Mapping[str, NDArray[Any]]

RANDOM_CALLS = 4
"""Number of random inputs to verify on."""

MAX_GOLDEN_BYTES = 32 << 20
"""Limit of the file of golden arrays; a network with larger inputs and outputs is written without."""

_MAX_INPUT_BYTES = 1 << 31
_SEED = 0
_TINY = 1e-6
_MOST_NAMES = 5
_MIN_IN_CHANNEL = 16

SMALL = 0.01
"""Fraction of an output's largest magnitude below which a channel is not seen by its tolerance."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tolerance:
    """Minimum agreement of an output with that of the float32 file.

    Attributes:
        difference: largest difference of a value that agrees, as a fraction of the output's largest
            magnitude; integers and flags must be equal.
        share: of the output's values that must agree.
    """

    difference: float
    share: float


TOLERANCES: dict[NetworkPrecision, Tolerance] = {
    "fp32": Tolerance(1e-3, 0.9999),
    "fp16": Tolerance(1e-2, 0.998),
}
"""Tolerances by precision."""


@dataclass(frozen=True)
class Inputs:
    """Inputs to verify on.

    Attributes:
        description: of their origin, for the manifest.
        calls: number of calls.
    """

    description: str
    calls: int
    _make: Callable[[], Iterator[Arrays]] = field(repr=False)

    def __iter__(self) -> Iterator[Arrays]:
        return self._make()


def verification_inputs(specs: Sequence[TensorSpec], source: Path | None) -> Inputs:
    """Inputs of a network: the .npz files of a user, or random ones.

    Args:
        specs: of the network's inputs.
        source: an .npz file with one array for each input, or a folder of such files; None for random inputs:
            floating point in multiples of 1/255 from 0 to 1, uint8 from 0 to 255, other integers 0 or 1.

    Raises:
        UsageError: there is no such file, or it is another kind of file.
    """
    if source is None:
        return Inputs(
            f"{RANDOM_CALLS} random inputs in [0, 1], seed {_SEED}",
            RANDOM_CALLS,
            lambda: (_random(specs, _SEED + i) for i in range(RANDOM_CALLS)),
        )
    files = sorted(source.glob("*.npz")) if source.is_dir() else [source]
    if not files or files[0].suffix.lower() != ".npz" or not files[0].is_file():
        raise UsageError(
            f"--frames {source} for a third-party network",
            expected="an .npz file, or a folder of them: for images the file names no scale",
            got="a folder without .npz files" if source.is_dir() else str(source),
            fix=_saving(specs),
        )
    listed = f"{len(files)} .npz files of {source.name}" if len(files) > 1 else files[0].name
    return Inputs(listed, len(files), lambda: (_read(f, specs) for f in files))


def _read(path: Path, specs: Sequence[TensorSpec]) -> Arrays:
    data = read_bounded(path, "inputs", _MAX_INPUT_BYTES)
    arrays = read_arrays(data, {spec.name: spec for spec in specs}, f"inputs {path}", _saving(specs))
    for name, array in arrays.items():
        if array.dtype.kind == "f" and (missing := int(np.isnan(array).sum())):
            # Any network agrees with itself on them.
            raise ArtifactError(
                f"inputs {path}: {name!r}",
                expected="numbers, as those in use",
                got=f"NaN in {missing} of {array.size} values",
                fix=_saving(specs),
            )
    return arrays


def _saving(specs: Sequence[TensorSpec]) -> str:
    """The call that writes a file of inputs."""
    if all(spec.name.isidentifier() and not keyword.iskeyword(spec.name) for spec in specs):
        arrays = ", ".join(f"{spec.name}=..." for spec in specs)
    else:
        arrays = "**{" + ", ".join(f"{spec.name!r}: ..." for spec in specs) + "}"
    return f"numpy.savez('call0.npz', {arrays})"


def _random(specs: Sequence[TensorSpec], seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {spec.name: _random_array(rng, spec) for spec in specs}


def _random_array(rng: np.random.Generator, spec: TensorSpec) -> NDArray[Any]:
    if spec.dtype in ("float32", "float16"):
        # As images have them: such values also take little space in a file of golden arrays.
        values = rng.integers(0, 256, spec.shape, np.uint8).astype(np.float32) / np.float32(255)
        return np.asarray(values, spec.dtype)
    high = 256 if spec.dtype == "uint8" else 2
    return np.asarray(rng.integers(0, high, spec.shape), spec.dtype)


@dataclass
class OutputAgreement:
    """Agreement of one output, summed over calls.

    Attributes:
        calls: number of calls.
        values, agreeing: numbers of values.
        difference: the largest, as a fraction of the output's largest magnitude; infinite if one is not
            finite where the other is.
        finite: whether the reference had a finite value.
        varying: whether the reference differed between calls.
        small_values, small_agreeing: numbers of values in channels whose largest magnitude is below SMALL of
            the output's, such as scores next to boxes in pixels, and of those that agree by their own.
    """

    calls: int = 0
    values: int = 0
    agreeing: int = 0
    difference: float = 0.0
    finite: bool = False
    varying: bool = False
    small_values: int = 0
    small_agreeing: int = 0
    _first: NDArray[Any] | None = field(default=None, repr=False)

    @property
    def share(self) -> float:
        """Fraction of the values that agree."""
        return self.agreeing / self.values if self.values else 1.0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any], tolerance: Tolerance) -> None:
        """Count the values of one call."""
        self.calls += 1
        self.values += reference.size
        if not reference.size:
            return
        self._first = reference if self._first is None else self._first
        self.varying |= self._first is not reference and self._first.tobytes() != reference.tobytes()
        self.finite |= reference.dtype.kind not in "f" or bool(np.isfinite(reference).any())
        if reference.dtype.kind not in "f":
            self.agreeing += int((reference == candidate).sum())
            return
        a, b = reference.astype(np.float64), candidate.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        finite = np.isfinite(a) & np.isfinite(b)
        scale = max(float(np.abs(a[np.isfinite(a)]).max(initial=0.0)), _TINY)
        distance = np.where(finite, np.abs(np.where(finite, a, 0) - np.where(finite, b, 0)), np.inf)
        distance = np.where(same, 0.0, distance)
        error = distance / scale
        self._add_small(np.where(np.isfinite(a), np.abs(a), 0), distance, scale, tolerance)
        self.agreeing += int((error <= tolerance.difference).sum())
        self.difference = max(self.difference, float(error.max()))

    def _add_small(
        self,
        magnitude: NDArray[np.float64],
        distance: NDArray[np.float64],
        scale: float,
        tolerance: Tolerance,
    ) -> None:
        """Count the values of small channels in [B, C, N] or [B, N, C], the fewer are the channels."""
        if magnitude.ndim != 3:
            return
        axis = 1 if magnitude.shape[1] <= magnitude.shape[2] else 2
        if magnitude.size < _MIN_IN_CHANNEL * magnitude.shape[axis]:
            return
        own = magnitude.max(axis=(0, 3 - axis), keepdims=True)
        small = np.broadcast_to((own > 0) & (own < SMALL * scale), magnitude.shape)
        self.small_values += int(small.sum())
        self.small_agreeing += int((small & (distance <= tolerance.difference * own)).sum())

    def to_dict(self) -> dict[str, object]:
        """Data for the manifest."""
        difference = self.difference if np.isfinite(self.difference) else None
        return {"agreeing": round(self.share, 6), "largest_difference": difference}


def compare_arrays(
    runs: Mapping[str, Callable[[Arrays], Arrays]],
    calls: Iterable[tuple[Arrays, Arrays]],
    outputs: Sequence[TensorSpec],
    tolerance: Tolerance,
) -> dict[str, dict[str, OutputAgreement]]:
    """Agreement of the outputs of networks with references.

    Args:
        runs: the networks by names of any kind.
        calls: inputs and their reference outputs.
        outputs: of all networks.
        tolerance: of their precision.

    Returns:
        name of the network -> output -> agreement.
    """
    agreement = {name: {spec.name: OutputAgreement() for spec in outputs} for name in runs}
    for inputs, references in calls:
        for name, run in runs.items():
            found = run(inputs)
            for output, each in agreement[name].items():
                each.add(references[output], found[output], tolerance)
    return agreement


def failures(agreement: Mapping[str, OutputAgreement], precision: NetworkPrecision) -> list[str]:
    """One message for each output that agrees less than the tolerance of the precision requires."""
    least = TOLERANCES[precision].share
    return [
        f"{name!r}: {each.share:.4%}, largest difference {each.difference:.3g}"
        for name, each in agreement.items()
        if each.share < least
    ]


def enforce_arrays(
    agreement: Mapping[str, OutputAgreement], precision: NetworkPrecision, exported: bool = False
) -> None:
    """Check the tolerance of a precision.

    Args:
        agreement: of each output.
        precision: of the network.
        exported: its outputs are compared with golden arrays, where no other inputs can be given.

    Raises:
        VerificationError: an output agrees less than the tolerance requires.
    """
    tolerance = TOLERANCES[precision]
    failed = failures(agreement, precision)
    if failed:
        raise VerificationError(
            f"outputs in {precision} against the float32 file in ONNX Runtime",
            expected=f"{tolerance.share:.2%} of the values within {tolerance.difference:g} of the largest",
            got="; ".join(failed),
            fix="export the original file again in float32, or build the engine again on this machine"
            if exported
            else "verify on inputs like those in use: --frames FILE.npz; or --engine fp32; or --no-verify",
        )


def warn_of_untested(agreement: Mapping[str, OutputAgreement], precision: NetworkPrecision) -> None:
    """Log outputs whose comparison says little.

    They are not finite, the same in each call, or have channels that disagree beside much larger ones.
    """
    compared = {name: each for name, each in agreement.items() if each.values}
    undefined = [name for name, each in compared.items() if not each.finite]
    same = [
        name
        for name, each in compared.items()
        if each.calls > 1 and not each.varying and name not in undefined
    ]
    for names, what in (
        (undefined, "NaN or infinite in all calls, so none of its values was compared"),
        (same, "the same in all calls, so the comparison says little if it depends on the inputs"),
    ):
        if names:
            listed = ", ".join(map(repr, names[:_MOST_NAMES])) + ", ..." * (len(names) > _MOST_NAMES)
            _log.warning("output %s: %s. Verify on inputs like those in use: --frames FILE.npz", listed, what)
    tolerance = TOLERANCES[precision]
    for name, each in compared.items():
        if each.small_agreeing < tolerance.share * each.small_values:
            _log.warning(
                "output %r has channels of less than %g of its largest value, by which all are compared: "
                "only %.2f%% of their values are within %g of their own largest. Make them an output of "
                "their own, or export fp32",
                name,
                SMALL,
                100 * each.small_agreeing / each.small_values,
                tolerance.difference,
            )


# ---- golden arrays ----


def pack_call(inputs: Arrays, outputs: Arrays) -> bytes | None:
    """One call and its outputs as an .npz file; None if it would be larger than MAX_GOLDEN_BYTES."""
    arrays = {f"input{i}": array for i, array in enumerate(inputs.values())}
    arrays |= {f"output{i}": array for i, array in enumerate(outputs.values())}
    if sum(array.nbytes for array in arrays.values()) > 8 * MAX_GOLDEN_BYTES:
        return None
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # a name could be that of its option
    data = buffer.getvalue()
    return data if len(data) <= MAX_GOLDEN_BYTES else None


def unpack_call(
    data: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[Arrays, Arrays]:
    """What :func:`pack_call` wrote: inputs and outputs by name.

    Raises:
        ArtifactError: the file is damaged, or has other arrays than follow from the manifest.
    """
    specs = {f"input{i}": spec for i, spec in enumerate(inputs)}
    specs |= {f"output{i}": spec for i, spec in enumerate(outputs)}
    arrays = read_arrays(data, specs, "golden arrays")
    return (
        {spec.name: arrays[f"input{i}"] for i, spec in enumerate(inputs)},
        {spec.name: arrays[f"output{i}"] for i, spec in enumerate(outputs)},
    )
