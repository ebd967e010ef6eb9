# SPDX-License-Identifier: Apache-2.0
"""Validation of frames in GPU memory, through DLPack or __cuda_array_interface__.

Nothing is copied. Both protocols also define how to wait for the work that fills the array: with DLPack the
producer makes our stream wait, the other protocol names the producer's stream.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

from imp_trt.cuda import driver
from imp_trt.errors import DeviceError, InvalidInput

_CUDA, _CUDA_MANAGED = 2, 13  # DLDeviceType
_UNSIGNED = 1  # DLDataTypeCode
_DLPACK_KINDS = {0: "int", _UNSIGNED: "uint", 2: "float", 4: "bfloat", 6: "bool"}
_LEGACY_STREAM = 1  # the default stream's number in both protocols and in the driver API

_EXPECTED = "a uint8 array [H, W, 3] on the GPU whose pixels are packed"


@dataclass(frozen=True)
class DeviceFrame:
    """A checked frame on the GPU.

    Attributes:
        pointer: device address of its first byte.
        size: (h, w), pixels.
        row_pitch: bytes from one row to the next, at least 3 w.
        owner: keeps the memory alive; keep it until the GPU has read the frame.
    """

    pointer: int
    size: tuple[int, int]
    row_pitch: int
    owner: object


def on_device(frame: object) -> bool:
    """Whether an object is an array on a CUDA device, by one of the two protocols."""
    return _dlpack_device(frame) is not None or _has_interface(frame)


def device_frame(frame: object, device: int, stream: int, wait_for: Callable[[int], None]) -> DeviceFrame:
    """A checked frame on the GPU that is safe to read on a stream.

    The device's context must be current in this thread.

    Args:
        frame: [H, W, 3] uint8 array with packed pixels and any row pitch; not changed.
        device: index of the GPU that will read it.
        stream: handle of the stream that will read it.
        wait_for: makes that stream wait for all work enqueued so far on another, given by its handle.

    Raises:
        InvalidInput: another shape, dtype, layout or GPU, or the producer refuses; the message has the fix.
    """
    index = _dlpack_device(frame)
    if index is not None:
        if index != device:
            raise _other_device(index, device)
        return _from_dlpack(cast("_DLPackArray", frame), stream)
    return _from_interface(cast("_InterfaceArray", frame), device, wait_for)


class _DLPackArray(Protocol):
    def __dlpack__(self, *, stream: int) -> object: ...


class _InterfaceArray(Protocol):
    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]: ...


# ---- DLPack ----


class _DLDevice(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class _DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    """The beginning of DLManagedTensor, as dlpack.h lays it out."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


def _dlpack_device(frame: object) -> int | None:
    """Index of the GPU that holds the frame, or None."""
    try:
        dlpack_device = getattr(frame, "__dlpack_device__", None)
        if dlpack_device is None:
            return None
        kind, index = dlpack_device()
        return int(index) if int(kind) in (_CUDA, _CUDA_MANAGED) else None
    except Exception:  # e.g. a tensor type that DLPack does not support: not a frame either
        return None


def _from_dlpack(frame: _DLPackArray, stream: int) -> DeviceFrame:
    try:
        capsule = frame.__dlpack__(stream=stream)
    except Exception as error:
        raise InvalidInput(
            "frame", expected=_EXPECTED, got=f"{type(error).__name__}: {error}", fix="pass tensor.detach()"
        ) from error
    # The capsule is kept, not consumed: it owns the tensor until it is garbage collected.
    tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
    kind = tensor.dtype
    name = f"{_DLPACK_KINDS.get(kind.code, 'kind ')}{kind.bits}"
    if (kind.code, kind.bits, kind.lanes) != (_UNSIGNED, 8, 1):
        raise _rejected(name, shape, _fix_dtype(name))
    pitch = _row_pitch(shape, strides, name)
    return DeviceFrame(int(tensor.data or 0) + tensor.byte_offset, (shape[0], shape[1]), pitch, capsule)


# ---- __cuda_array_interface__ ----


def _has_interface(frame: object) -> bool:
    try:
        return hasattr(frame, "__cuda_array_interface__")
    except Exception:  # the property may raise anything; reading it again reports the reason
        return True


def _from_interface(frame: _InterfaceArray, device: int, wait_for: Callable[[int], None]) -> DeviceFrame:
    try:
        interface = frame.__cuda_array_interface__
        shape = tuple(int(side) for side in interface["shape"])
        strides = interface.get("strides")
        strides = None if strides is None else tuple(int(step) for step in strides)
        kind, pointer = str(interface["typestr"]), int(interface["data"][0])
        masked = interface.get("mask") is not None
    except Exception as error:
        raise InvalidInput(
            "frame: its __cuda_array_interface__", expected=_EXPECTED, got=f"{type(error).__name__}: {error}"
        ) from error
    if kind[1:] != "u1":
        raise _rejected(kind, shape, _fix_dtype(kind))
    if masked:
        raise _rejected("a masked array", shape, "pass the array without its mask")
    pitch = _row_pitch(shape, strides, "uint8")
    _check_memory(pointer, device)
    _wait_for_producer(interface, wait_for)
    return DeviceFrame(pointer, (shape[0], shape[1]), pitch, frame)


def _check_memory(pointer: int, device: int) -> None:
    """The interface does not name the GPU; the driver knows which one owns the memory."""
    try:
        index = _pointer_attribute("DEVICE_ORDINAL", pointer)
    except DeviceError as error:
        raise InvalidInput(
            "frame", expected=_EXPECTED, got=f"address {pointer:#x}, which is no CUDA memory ({error.got})"
        ) from error
    if index != device:
        raise _other_device(index, device)
    # Each context has its own address space: a kernel that reads another context's memory fails, and with it
    # all CUDA work of the process. Memory of a pool belongs to no context: all can read it.
    with suppress(DeviceError):
        owner = _pointer_attribute("CONTEXT", pointer)
        if owner not in (0, int(driver.call("cuCtxGetCurrent"))):
            raise InvalidInput(
                "frame",
                expected="memory of the GPU's primary context, which TensorRT, PyTorch and CuPy use",
                got="memory of another CUDA context",
                fix="with PyCUDA: import pycuda.autoprimaryctx in place of pycuda.autoinit",
            )


def _pointer_attribute(name: str, pointer: int) -> int:
    attribute = getattr(driver.bindings().CUpointer_attribute, f"CU_POINTER_ATTRIBUTE_{name}")
    return int(driver.call("cuPointerGetAttribute", attribute, pointer))


def _wait_for_producer(interface: Mapping[str, Any], wait_for: Callable[[int], None]) -> None:
    """Wait for the producer as its version of the interface defines it."""
    version, stream = int(interface.get("version", 0)), interface.get("stream")
    if version < 3:
        # These versions have no stream. The legacy default stream waits for all that do not opt out of it.
        wait_for(_LEGACY_STREAM)
    elif stream is not None:
        if not isinstance(stream, int) or stream == 0:
            raise InvalidInput(
                "frame: stream of its __cuda_array_interface__",
                expected="None, 1, 2 or a handle",
                got=repr(stream),
            )
        wait_for(stream)


# ---- both ----


def _row_pitch(shape: tuple[int, ...], strides: tuple[int, ...] | None, kind: str) -> int:
    """Bytes from row to row of a uint8 array [H, W, 3]; strides in bytes, None means contiguous."""
    if len(shape) != 3 or shape[2] != 3:
        raise _rejected(kind, shape, _fix_shape(shape))
    h, w, _ = shape
    if h < 1 or w < 1:
        raise _rejected(kind, shape, "check how it was cropped")
    packed = 3 * w
    if strides is None:
        return packed
    row, pixel, channel = strides if len(strides) == 3 else (0, 0, 0)
    pitch = row if h > 1 else packed
    if channel != 1 or (w > 1 and pixel != 3) or pitch < packed:
        raise InvalidInput(
            "frame",
            expected=_EXPECTED,
            got=f"strides {strides} for shape {shape}",
            fix="pass array.contiguous() (PyTorch) or cupy.ascontiguousarray(array); an RGB frame needs no "
            "flip, but color='rgb'",
        )
    return pitch


def _rejected(kind: str, shape: tuple[int, ...], fix: str) -> InvalidInput:
    return InvalidInput("frame", expected=_EXPECTED, got=f"{kind} {list(shape)}", fix=fix)


def _fix_dtype(kind: str) -> str:
    if "f" in kind:
        return "(frame * 255).round().clip(0, 255) as uint8, for values 0-1"
    return "convert it to uint8 on the GPU"


def _fix_shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[0] == 3:
        return "frame.permute(1, 2, 0).contiguous()"
    if len(shape) == 3 and shape[2] == 4:
        return "frame[..., :3].contiguous()"
    if len(shape) == 4:
        return "pass the frames of a batch one by one, or to run_batch"
    return "pass an image with three channels"


def _other_device(index: int, device: int) -> InvalidInput:
    return InvalidInput(
        "frame",
        expected=f"memory of GPU {device}, where the engine is",
        got=f"memory of GPU {index}",
        fix=f"copy it there, or open the Segmenter with device='cuda:{index}'",
    )
