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
from typing import Any, NamedTuple, Protocol, cast

from imp_trt.cuda import driver
from imp_trt.errors import DeviceError, InvalidInput
from imp_trt.preprocessing.nv12 import Nv12Frame, YuvToBgr, frame_size, plane_layout

_CUDA, _CUDA_MANAGED = 2, 13  # DLDeviceType
_UNSIGNED = 1  # DLDataTypeCode
_DLPACK_KINDS = {0: "int", _UNSIGNED: "uint", 2: "float", 4: "bfloat", 6: "bool"}
_LEGACY_STREAM = 1  # the default stream's number in both protocols and in the driver API

_EXPECTED = "a uint8 array [H, W, 3] on the GPU whose pixels are packed"
_EXPECTED_PLANE = "a uint8 array on the GPU whose pixels are packed"


@dataclass(frozen=True)
class DeviceChroma:
    """The UV plane of a frame in NV12 on the GPU.

    Attributes:
        pointer: device address of its first byte.
        row_pitch: bytes from one row to the next, at least w.
        to_bgr: the conversion of its colors.
    """

    pointer: int
    row_pitch: int
    to_bgr: YuvToBgr


@dataclass(frozen=True)
class DeviceFrame:
    """A checked frame on the GPU.

    Attributes:
        pointer: device address of its first byte; in NV12, of the Y plane.
        size: (h, w), pixels.
        row_pitch: bytes from one row to the next, at least 3 w; in NV12, at least w.
        owner: keeps the memory alive; keep it until the GPU has read the frame.
        chroma: the UV plane in NV12; None for packed pixels.
    """

    pointer: int
    size: tuple[int, int]
    row_pitch: int
    owner: object
    chroma: DeviceChroma | None = None


class _Array(NamedTuple):
    """Bytes on the GPU that are safe to read; strides in bytes, None means contiguous."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    owner: object


class _Reader(NamedTuple):
    """Who reads: GPU, stream, and what makes the stream wait for another."""

    device: int
    stream: int
    wait_for: Callable[[int], None]


def on_device(frame: object) -> bool:
    """Whether an object is an array on a CUDA device, by one of the two protocols, or has such a Y plane."""
    if isinstance(frame, Nv12Frame):
        frame = frame.y
    return _dlpack_device(frame) is not None or _has_interface(frame)


def device_frame(frame: object, device: int, stream: int, wait_for: Callable[[int], None]) -> DeviceFrame:
    """A checked frame on the GPU that is safe to read on a stream.

    The device's context must be current in this thread.

    Args:
        frame: [H, W, 3] uint8 array with packed pixels and any row pitch, or an Nv12Frame; not changed.
        device: index of the GPU that will read it.
        stream: handle of the stream that will read it.
        wait_for: makes that stream wait for all work enqueued so far on another, given by its handle.

    Raises:
        InvalidInput: another shape, dtype, layout or GPU, or the producer refuses; the message has the fix.
    """
    reader = _Reader(device, stream, wait_for)
    if isinstance(frame, Nv12Frame):
        return _nv12_frame(frame, reader)
    array = _read(frame, "frame", reader)
    pitch = _row_pitch(array.shape, array.strides)
    return DeviceFrame(array.pointer, (array.shape[0], array.shape[1]), pitch, array.owner)


def _nv12_frame(frame: Nv12Frame, reader: _Reader) -> DeviceFrame:
    y = _read(frame.y, "Y plane", reader)
    luma = plane_layout("Y plane", y.shape, y.strides)
    if frame.uv is None:
        h, w = frame_size(luma, None)
        uv, pitch, owner = y.pointer + h * luma.pitch, luma.pitch, y.owner
    else:
        if not on_device(frame.uv):
            raise InvalidInput("UV plane", expected="memory of the GPU, as the Y plane", got=type(frame.uv))
        array = _read(frame.uv, "UV plane", reader)
        chroma = plane_layout("UV plane", array.shape, array.strides)
        h, w = frame_size(luma, chroma)
        uv, pitch, owner = array.pointer, chroma.pitch, (y.owner, array.owner)
    return DeviceFrame(y.pointer, (h, w), luma.pitch, owner, DeviceChroma(uv, pitch, YuvToBgr.of(frame)))


def _read(array: object, name: str, reader: _Reader) -> _Array:
    """Bytes of an object that is on a GPU; the reader's stream waits for what fills them."""
    index = _dlpack_device(array)
    if index is not None:
        if index != reader.device:
            raise _other_device(name, index, reader.device)
        return _from_dlpack(cast("_DLPackArray", array), name, reader)
    return _from_interface(cast("_InterfaceArray", array), name, reader)


class _DLPackArray(Protocol):
    def __dlpack__(self, *, stream: int | None = None) -> object: ...


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


def _from_dlpack(array: _DLPackArray, name: str, reader: _Reader) -> _Array:
    on_default_stream = False
    try:
        try:
            capsule = array.__dlpack__(stream=reader.stream)
        except NotImplementedError:
            # PyAV makes no stream wait. By the protocol, None means: ready on the default stream.
            capsule = array.__dlpack__(stream=None)
            on_default_stream = True
    except Exception as error:
        raise InvalidInput(
            name, expected=_expected(name), got=f"{type(error).__name__}: {error}", fix="pass tensor.detach()"
        ) from error
    if on_default_stream:
        reader.wait_for(_LEGACY_STREAM)
    # The capsule is kept, not consumed: it owns the tensor until it is garbage collected.
    tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
    kind = tensor.dtype
    if (kind.code, kind.bits, kind.lanes) != (_UNSIGNED, 8, 1):
        dtype = f"{_DLPACK_KINDS.get(kind.code, 'kind ')}{kind.bits}"
        raise _rejected(name, dtype, shape, _fix_dtype(name, dtype))
    return _Array(int(tensor.data or 0) + tensor.byte_offset, shape, strides, capsule)


# ---- __cuda_array_interface__ ----


def _has_interface(frame: object) -> bool:
    try:
        return hasattr(frame, "__cuda_array_interface__")
    except Exception:  # the property may raise anything; reading it again reports the reason
        return True


def _from_interface(array: _InterfaceArray, name: str, reader: _Reader) -> _Array:
    try:
        interface = array.__cuda_array_interface__
        shape = tuple(int(side) for side in interface["shape"])
        strides = interface.get("strides")
        strides = None if strides is None else tuple(int(step) for step in strides)
        kind, pointer = str(interface["typestr"]), int(interface["data"][0])
        masked = interface.get("mask") is not None
    except Exception as error:
        raise InvalidInput(
            f"{name}: its __cuda_array_interface__",
            expected=_expected(name),
            got=f"{type(error).__name__}: {error}",
        ) from error
    if kind[1:] != "u1":
        raise _rejected(name, kind, shape, _fix_dtype(name, kind))
    if masked:
        raise _rejected(name, "a masked array", shape, "pass the array without its mask")
    if strides is not None and len(strides) != len(shape):
        raise InvalidInput(
            f"{name}: its __cuda_array_interface__",
            expected=_expected(name),
            got=f"strides {strides} for shape {shape}",
        )
    _check_memory(pointer, name, reader.device)
    _wait_for_producer(interface, name, reader.wait_for)
    return _Array(pointer, shape, strides, array)


def _check_memory(pointer: int, name: str, device: int) -> None:
    """The interface does not name the GPU; the driver knows which one owns the memory."""
    try:
        index = _pointer_attribute("DEVICE_ORDINAL", pointer)
    except DeviceError as error:
        raise InvalidInput(
            name,
            expected=_expected(name),
            got=f"address {pointer:#x}, which is no CUDA memory ({error.got})",
        ) from error
    if index != device:
        raise _other_device(name, index, device)
    # Each context has its own address space: a kernel that reads another context's memory fails, and with it
    # all CUDA work of the process. Memory of a pool belongs to no context: all can read it.
    with suppress(DeviceError):
        owner = _pointer_attribute("CONTEXT", pointer)
        if owner not in (0, int(driver.call("cuCtxGetCurrent"))):
            raise InvalidInput(
                name,
                expected="memory of the GPU's primary context, which TensorRT, PyTorch and CuPy use",
                got="memory of another CUDA context",
                fix="with PyCUDA: import pycuda.autoprimaryctx in place of pycuda.autoinit",
            )


def _pointer_attribute(name: str, pointer: int) -> int:
    attribute = getattr(driver.bindings().CUpointer_attribute, f"CU_POINTER_ATTRIBUTE_{name}")
    return int(driver.call("cuPointerGetAttribute", attribute, pointer))


def _wait_for_producer(interface: Mapping[str, Any], name: str, wait_for: Callable[[int], None]) -> None:
    """Wait for the producer as its version of the interface defines it."""
    version, stream = int(interface.get("version", 0)), interface.get("stream")
    if version < 3:
        # These versions have no stream. The legacy default stream waits for all that do not opt out of it.
        wait_for(_LEGACY_STREAM)
    elif stream is not None:
        if not isinstance(stream, int) or stream == 0:
            raise InvalidInput(
                f"{name}: stream of its __cuda_array_interface__",
                expected="None, 1, 2 or a handle",
                got=repr(stream),
            )
        wait_for(stream)


# ---- both ----


def _row_pitch(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> int:
    """Bytes from row to row of a uint8 array [H, W, 3]; strides in bytes, None means contiguous."""
    if len(shape) != 3 or shape[2] != 3:
        raise _rejected("frame", "uint8", shape, _fix_shape(shape))
    h, w, _ = shape
    if h < 1 or w < 1:
        raise _rejected("frame", "uint8", shape, "check how it was cropped")
    packed = 3 * w
    if strides is None:
        return packed
    row, pixel, channel = strides
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


def _expected(name: str) -> str:
    return _EXPECTED if name == "frame" else _EXPECTED_PLANE


def _rejected(name: str, kind: str, shape: tuple[int, ...], fix: str) -> InvalidInput:
    return InvalidInput(name, expected=_expected(name), got=f"{kind} {list(shape)}", fix=fix)


def _fix_dtype(name: str, kind: str) -> str:
    if name != "frame":
        return "decode to 8 bits a level"
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
    if len(shape) == 2:
        return "pass an image with three channels, or imp_trt.Nv12Frame(frame) if it is NV12"
    return "pass an image with three channels"


def _other_device(name: str, index: int, device: int) -> InvalidInput:
    return InvalidInput(
        name,
        expected=f"memory of GPU {device}, where the engine is",
        got=f"memory of GPU {index}",
        fix=f"copy it there, or open the Segmenter with device='cuda:{index}'",
    )
