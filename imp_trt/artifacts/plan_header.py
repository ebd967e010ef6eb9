# SPDX-License-Identifier: Apache-2.0
"""The header of a serialized engine, read without TensorRT and without trusting it.

TensorRT: a tag at byte 0, the serialization version at byte 4 and, for serialization version 0, the
library's version in bytes 24 to 27. trtexec --getPlanVersionOnly reads a plan this way, and reads no more
(NVIDIA/TensorRT, samples/common/sampleEngines.cpp, the same from v10.0.0 to v11.1).

TensorRT-RTX documents no layout. Engines built with 1.4.0, 1.5.0, 1.6.1 and 1.7.1 have the same one: another
tag, the same fields, the length of the file at byte 16, and at byte 32 one bit per compute capability. A
default engine also has the bit after the last named one set, which is ignored here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from imp_trt.artifacts.engine_info import EngineBackendName
from imp_trt.artifacts.fields import EXPORT_AGAIN
from imp_trt.errors import ArtifactError

HEADER_BYTES = 64
"""Number of bytes that :func:`read_plan_header` needs; TensorRT-RTX states 64 as its header's size."""

_VERSION_END = 28
_TAGS: dict[bytes, EngineBackendName] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
# By position of the bit. 12.1 was added in 1.5; before, that bit had another meaning.
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_NAMED_IN_1_4 = 5


@dataclass(frozen=True)
class PlanHeader:
    """The header of an engine.

    Attributes:
        backend: library of the engine; None for bytes that are not an engine.
        version: of the library that built it, e.g. "10.3.0.26"; None if unknown.
        compute_capabilities: those in the header, e.g. ``("8.6", "8.9")``; TensorRT-RTX only.
        size: bytes of the whole engine; None if unknown.
    """

    backend: EngineBackendName | None = None
    version: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    size: int | None = None


def read_plan_header(data: bytes) -> PlanHeader:
    """The header of an engine from its first HEADER_BYTES bytes, or from all of it.

    For bytes that are not an engine all fields are None; for an unknown serialization version only the
    backend is set.

    Raises:
        ArtifactError: too few bytes.
    """
    if len(data) < _VERSION_END:
        raise ArtifactError(
            "engine",
            expected=f"at least {_VERSION_END} bytes",
            got=f"{len(data)} bytes",
            fix=f"the file is truncated; copy it again, or {EXPORT_AGAIN}",
        )
    backend = _TAGS.get(bytes(data[:4]))
    if backend is None:
        return PlanHeader()
    if struct.unpack_from("<I", data, 4)[0] != 0:
        return PlanHeader(backend)
    numbers = struct.unpack_from("4B", data, 24)
    version = ".".join(map(str, numbers))
    if backend == "tensorrt" or numbers[0] != 1 or numbers[1] < 4 or len(data) < 36:
        return PlanHeader(backend, version)
    (size,) = struct.unpack_from("<Q", data, 16)
    (bits,) = struct.unpack_from("<I", data, 32)
    named = RTX_CAPABILITIES if numbers[1] > 4 else RTX_CAPABILITIES[:_NAMED_IN_1_4]
    capabilities = tuple(name for i, name in enumerate(named) if bits >> i & 1)
    return PlanHeader(backend, version, capabilities, size)
