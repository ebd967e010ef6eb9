# SPDX-License-Identifier: Apache-2.0
"""Validation of frames and other arrays in GPU memory, through DLPack or __cuda_array_interface__.

Nothing is copied. Both protocols also define how to wait for the work that fills the array: with DLPack the
producer makes our stream wait, the other protocol names the producer's stream.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

from imp_trt.cuda import driver
from imp_trt.errors import DeviceError, InvalidInput
from imp_trt.preprocessing.array_input import SupportsCudaArrayInterface, SupportsDLPack
from imp_trt.preprocessing.nv12 import Nv12Frame, YuvToBgr, frame_size, plane_layout

_CUDA, _CUDA_MANAGED = 2, 13  # DLDeviceType
_BOOL = 6  # DLDataTypeCode
_DLPACK_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex"}
_NAMES = {  # in typestr, behind the byte order, which is the GPU's
    "u1": "uint8",
    "i1": "int8",
    "b1": "bool",
    "i4": "int32",
    "i8": "int64",
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
}
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


@dataclass(frozen=True)
class DeviceView:
    """Memory of an array on the GPU, as its producer describes it.

    Attributes:
        pointer: device address of its first element.
        shape: of the array.
        strides: bytes from one element to the next of each axis; None means C order.
        dtype: NumPy's name of its type, or what the producer says if NumPy has none.
        owner: keeps the memory alive; keep it until the GPU has read the array.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    owner: object

    def in_c_order(self, itemsize: int) -> bool:
        """Whether the elements, of that many bytes, are packed in C order."""
        if self.strides is None or 0 in self.shape:
            return True
        step = itemsize
        for side, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if side != 1 and stride != step:
                return False
            step *= side
        return True


class _Reader(NamedTuple):
    """Who reads: GPU, stream, and what makes the stream wait for another; and what it checks first."""

    device: int
    stream: int
    wait_for: Callable[[int], None]
    name: str
    expected: str
    check: Callable[[DeviceView], None]


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
        InvalidInput: another shape, dtype, layout or GPU, or the producer rejects; the message has the fix.
    """

    def read(array: object, name: str) -> DeviceView:
        expected = _EXPECTED if name == "frame" else _EXPECTED_PLANE
        return device_view(array, device, stream, wait_for, partial(_check_bytes, name), name, expected)

    if isinstance(frame, Nv12Frame):
        return _nv12_frame(frame, read)
    array = read(frame, "frame")
    pitch = _row_pitch(array.shape, array.strides)
    return DeviceFrame(array.pointer, (array.shape[0], array.shape[1]), pitch, array.owner)


def device_view(
    array: object,
    device: int,
    stream: int,
    wait_for: Callable[[int], None],
    check: Callable[[DeviceView], None],
    what: str,
    expected: str,
) -> DeviceView:
    """An array on the GPU that is safe to read on a stream. Nothing is copied.

    Args:
        array: of DLPack or __cuda_array_interface__; not changed.
        device, stream, wait_for: see :func:`device_frame`.
        check: raises InvalidInput if the array has another type or shape than it must have.
        what, expected: name and description of the array, for errors.

    Raises:
        InvalidInput: another GPU, or the producer rejects; or check rejects it.
    """
    return _read(array, _Reader(device, stream, wait_for, what, expected, check))


def _check_bytes(name: str, view: DeviceView) -> None:
    if view.dtype != "uint8":
        raise _rejected(name, view.dtype, view.shape, _fix_dtype(name, view.dtype))


def _nv12_frame(frame: Nv12Frame, read: Callable[[object, str], DeviceView]) -> DeviceFrame:
    y = read(frame.y, "Y plane")
    luma = plane_layout("Y plane", y.shape, y.strides)
    if frame.uv is None:
        h, w = frame_size(luma, None)
        uv, pitch, owner = y.pointer + h * luma.pitch, luma.pitch, y.owner
    else:
        if not on_device(frame.uv):
            raise InvalidInput("UV plane", expected="memory of the GPU, as the Y plane", got=type(frame.uv))
        array = read(frame.uv, "UV plane")
        chroma = plane_layout("UV plane", array.shape, array.strides)
        h, w = frame_size(luma, chroma)
        uv, pitch, owner = array.pointer, chroma.pitch, (y.owner, array.owner)
    return DeviceFrame(y.pointer, (h, w), luma.pitch, owner, DeviceChroma(uv, pitch, YuvToBgr.of(frame)))


def _read(array: object, reader: _Reader) -> DeviceView:
    """An object that is on a GPU, checked; the reader's stream waits for what fills it."""
    index = _dlpack_device(array)
    if index is not None:
        if index != reader.device:
            raise _other_device(reader.name, index, reader.device)
        view = _from_dlpack(cast("SupportsDLPack", array), reader)
        reader.check(view)
        return view
    view, interface = _from_interface(cast("SupportsCudaArrayInterface", array), reader)
    reader.check(view)
    _check_memory(view.pointer, reader)
    _wait_for_producer(interface, reader)
    return view


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


def _from_dlpack(array: SupportsDLPack, reader: _Reader) -> DeviceView:
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
            reader.name,
            expected=reader.expected,
            got=f"{type(error).__name__}: {error}",
            fix="pass tensor.detach()",
        ) from error
    if on_default_stream:
        reader.wait_for(_LEGACY_STREAM)
    # The capsule is kept, not consumed: it owns the tensor until it is garbage collected.
    tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    kind = tensor.dtype
    name = f"{_DLPACK_KINDS.get(kind.code, 'kind ')}{kind.bits}" if kind.code != _BOOL else "bool"
    if kind.lanes != 1:
        name += f"x{kind.lanes}"
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[i] * (kind.bits // 8) for i in range(tensor.ndim))
    return DeviceView(int(tensor.data or 0) + tensor.byte_offset, shape, strides, name, capsule)


# ---- __cuda_array_interface__ ----


def _has_interface(frame: object) -> bool:
    try:
        return hasattr(frame, "__cuda_array_interface__")
    except Exception:  # the property may raise anything; reading it again reports the reason
        return True


def _from_interface(
    array: SupportsCudaArrayInterface, reader: _Reader
) -> tuple[DeviceView, Mapping[str, Any]]:
    try:
        interface = array.__cuda_array_interface__
        shape = tuple(int(side) for side in interface["shape"])
        strides = interface.get("strides")
        strides = None if strides is None else tuple(int(step) for step in strides)
        kind, pointer = str(interface["typestr"]), int(interface["data"][0])
        masked = interface.get("mask") is not None
    except Exception as error:
        raise InvalidInput(
            f"{reader.name}: its __cuda_array_interface__",
            expected=reader.expected,
            got=f"{type(error).__name__}: {error}",
        ) from error
    name = kind if kind[:1] == ">" else _NAMES.get(kind[1:], kind)
    view = DeviceView(pointer, shape, strides, name, array)
    if masked:
        reader.check(view)  # a wrong type is reported first
        raise InvalidInput(
            reader.name,
            expected=reader.expected,
            got=f"a masked array {list(shape)}",
            fix="pass the array without its mask",
        )
    if strides is not None and len(strides) != len(shape):
        raise InvalidInput(
            f"{reader.name}: its __cuda_array_interface__",
            expected=reader.expected,
            got=f"strides {strides} for shape {shape}",
        )
    return view, interface


def _check_memory(pointer: int, reader: _Reader) -> None:
    """The interface does not name the GPU; the driver knows which one owns the memory."""
    try:
        index = _pointer_attribute("DEVICE_ORDINAL", pointer)
    except DeviceError as error:
        raise InvalidInput(
            reader.name,
            expected=reader.expected,
            got=f"address {pointer:#x}, which is no CUDA memory ({error.got})",
        ) from error
    if index != reader.device:
        raise _other_device(reader.name, index, reader.device)
    # Each context has its own address space: a kernel that reads another context's memory fails, and with it
    # all CUDA work of the process. Memory of a pool belongs to no context: all can read it.
    with suppress(DeviceError):
        owner = _pointer_attribute("CONTEXT", pointer)
        if owner not in (0, int(driver.call("cuCtxGetCurrent"))):
            raise InvalidInput(
                reader.name,
                expected="memory of the GPU's primary context, which TensorRT, PyTorch and CuPy use",
                got="memory of another CUDA context",
                fix="with PyCUDA: import pycuda.autoprimaryctx instead of pycuda.autoinit",
            )


def _pointer_attribute(name: str, pointer: int) -> int:
    attribute = getattr(driver.bindings().CUpointer_attribute, f"CU_POINTER_ATTRIBUTE_{name}")
    return int(driver.call("cuPointerGetAttribute", attribute, pointer))


def _wait_for_producer(interface: Mapping[str, Any], reader: _Reader) -> None:
    """Wait for the producer as its version of the interface defines it."""
    version, stream = int(interface.get("version", 0)), interface.get("stream")
    if version < 3:
        # These versions have no stream. The legacy default stream waits for all that do not opt out of it.
        reader.wait_for(_LEGACY_STREAM)
    elif stream is not None:
        if not isinstance(stream, int) or stream == 0:
            raise InvalidInput(
                f"{reader.name}: stream of its __cuda_array_interface__",
                expected="None, 1, 2 or a handle",
                got=repr(stream),
            )
        reader.wait_for(stream)


# ---- frames, of both protocols ----


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


def _rejected(name: str, kind: str, shape: tuple[int, ...], fix: str) -> InvalidInput:
    expected = _EXPECTED if name == "frame" else _EXPECTED_PLANE
    return InvalidInput(name, expected=expected, got=f"{kind} {list(shape)}", fix=fix)


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
        fix=f"copy it there, or open the engine with device='cuda:{index}'",
    )
