# SPDX-License-Identifier: Apache-2.0
"""Validation of frames in host memory."""

from __future__ import annotations

import logging
import os
from typing import Any, Literal, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.native_calls import native_call
from imp_trt.errors import InvalidInput
from imp_trt.preprocessing.device_arrays import on_device
from imp_trt.preprocessing.nv12 import Nv12Frame
from imp_trt.preprocessing.nv12_host import nv12_to_bgr

ColorOrder = Literal["bgr", "rgb"]
"""Order of the channels of an image."""

_log = logging.getLogger(__name__)
_ORIENTATION = 0x112
_warned: set[int] = set()

COLORS: tuple[ColorOrder, ...] = ("bgr", "rgb")


class _Tensor(Protocol):
    """The part of torch.Tensor that is used here."""

    def detach(self) -> _Tensor: ...
    def numpy(self) -> NDArray[np.generic]: ...


_EXPECTED = (
    "a NumPy array or PyTorch tensor [H, W, 3] of uint8 (BGR, as OpenCV reads it) or a PIL image in mode RGB"
)


def check_frame(frame: object, color: ColorOrder | None = None) -> tuple[NDArray[np.uint8], ColorOrder]:
    """The pixels of a frame and the order of their channels.

    OpenCV would accept most of what is rejected here, and the result would be that of another image.

    Args:
        frame: [H, W, 3] uint8 array of any strides, a PyTorch tensor of that form on the CPU, a PIL image,
            or an Nv12Frame in host memory; not changed.
        color: order of the channels; None means BGR for arrays and RGB for PIL images. Not for an Nv12Frame.

    Returns:
        The same pixels, contiguous (copied only if necessary), and the order of their channels; those of an
        Nv12Frame converted to BGR.

    Raises:
        InvalidInput: anything else; the message says how to convert it.
    """
    check_color(color, frame)
    is_tensor = False
    if isinstance(frame, Nv12Frame):
        y = _host_plane(frame.y, "Y plane")
        uv = None if frame.uv is None else _host_plane(frame.uv, "UV plane")
        return nv12_to_bgr(y, uv, frame), "bgr"
    if _is_pil(frame):
        mode = getattr(frame, "mode", None)
        if mode != "RGB":
            raise InvalidInput(
                "frame", expected="a PIL image in mode RGB", got=f"mode {mode}", fix=_fix_mode(str(mode))
            )
        _warn_orientation(frame)
        pixels: NDArray[np.generic] = _decode(frame)
        default: ColorOrder = "rgb"
    elif isinstance(frame, np.ndarray):
        pixels, default = frame, "bgr"
    elif is_tensor := _is_cpu_tensor(frame):
        pixels, default = _tensor_pixels(frame), "bgr"
    else:
        raise InvalidInput("frame", expected=_EXPECTED, got=_kind(frame), fix=_fix_type(frame))
    if np.ma.is_masked(pixels):
        raise InvalidInput(
            "frame",
            expected="a frame without masked pixels",
            got="a masked array",
            fix="frame.filled(0), or frame.data to segment the masked pixels too",
        )
    _check_array(pixels, is_tensor)
    return np.ascontiguousarray(pixels, np.uint8), color or default


def check_color(color: object, frame: object) -> None:
    """InvalidInput unless color is None, or "bgr" or "rgb" for a frame that has such an order."""
    if color is not None and isinstance(frame, Nv12Frame):
        raise InvalidInput(
            "color", expected="None: an Nv12Frame states its matrix and range", got=repr(color)
        )
    if color is not None and color not in COLORS:
        raise InvalidInput("color", expected=f"one of {', '.join(COLORS)}", got=repr(color))


def to_bgr(frame: object, color: ColorOrder | None = None) -> NDArray[np.uint8]:
    """A frame as a contiguous BGR array; see :func:`check_frame`."""
    pixels, order = check_frame(frame, color)
    if order == "bgr":
        return pixels
    with native_call():
        converted: NDArray[np.uint8] = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
    return converted


def _is_pil(frame: object) -> bool:
    # By name: Pillow is not a dependency.
    return any(c.__module__ == "PIL.Image" and c.__name__ == "Image" for c in type(frame).__mro__)


def _warn_orientation(image: object) -> None:
    """Warn once of each EXIF orientation: files are turned by it, a PIL image is taken as its pixels are."""
    try:
        orientation = int(cast(Any, image).getexif().get(_ORIENTATION, 1))
    except Exception:  # metadata may be damaged, and plugins raise anything
        return
    if 2 <= orientation <= 8 and orientation not in _warned:
        _warned.add(orientation)
        _log.warning(
            "a PIL image has EXIF orientation %d, by which viewers and imp-segment turn it; it is segmented "
            "as its pixels are stored. PIL.ImageOps.exif_transpose(image) turns it",
            orientation,
        )


def _is_cpu_tensor(frame: object) -> bool:
    # By name: PyTorch is not a dependency.
    if not any(c.__module__ == "torch" and c.__name__ == "Tensor" for c in type(frame).__mro__):
        return False
    return bool(getattr(getattr(frame, "device", None), "type", None) == "cpu")


def _tensor_pixels(frame: object) -> NDArray[np.generic]:
    """The memory of a PyTorch tensor on the CPU as an array; nothing is copied."""
    tensor = cast("_Tensor", frame)
    try:
        return np.asarray(tensor.detach().numpy())
    except (TypeError, RuntimeError) as error:  # bfloat16, sparse, quantized
        dtype = str(getattr(frame, "dtype", "?")).removeprefix("torch.")
        layout = str(getattr(frame, "layout", "?")).removeprefix("torch.")
        if layout == "strided":
            fix = "tensor.dequantize()" if dtype.startswith("q") else _TENSOR_FIXES["f"]
        else:
            dtype, fix = f"{layout} {dtype}", "tensor.to_dense()"
        raise InvalidInput(
            "frame", expected="a dense tensor [H, W, 3] of torch.uint8", got=dtype, fix=fix
        ) from error


def _host_plane(plane: object, name: str) -> NDArray[np.uint8]:
    """A plane of an Nv12Frame as an array; nothing is copied."""
    expected = "a uint8 array in host memory"
    if isinstance(plane, np.ndarray):
        pixels: NDArray[np.generic] = plane
    elif _is_cpu_tensor(plane):
        pixels = _tensor_pixels(plane)
    elif _has(plane, "__dlpack__") and not on_device(plane):
        try:
            pixels = np.from_dlpack(cast(Any, plane))
        except Exception as error:  # whatever the producer raises
            raise InvalidInput(name, expected=expected, got=f"{type(error).__name__}: {error}") from error
    else:
        fix = _fix_type(plane) if on_device(plane) else "pass numpy.asarray(plane)"
        raise InvalidInput(name, expected=expected, got=_kind(plane), fix=fix)
    if pixels.dtype != np.uint8:
        raise InvalidInput(
            name,
            expected=expected,
            got=f"{pixels.dtype} {list(pixels.shape)}",
            fix="decode to 8 bits a level",
        )
    return np.asarray(pixels, np.uint8)


def _decode(image: object) -> NDArray[np.generic]:
    # Pillow reads the pixels only now, so a truncated or closed file raises here.
    try:
        return np.asarray(image)
    # Also its DecompressionBombError, and whatever a subclass or plugin raises.
    except Exception as error:
        raise InvalidInput(
            "frame",
            expected="a complete image",
            got=f"{type(error).__name__}: {error}",
            fix="copy the file again, keep it open until read",
        ) from error


def _check_array(pixels: NDArray[np.generic], is_tensor: bool) -> None:
    actual = f"{pixels.dtype} {list(pixels.shape)}"
    if pixels.dtype != np.uint8:
        fix = _fix_tensor_dtype(pixels.dtype) if is_tensor else _fix_dtype(pixels.dtype)
        raise InvalidInput("frame", expected=_EXPECTED, got=actual, fix=fix)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        fix = _fix_tensor_shape(pixels.shape) if is_tensor else _fix_shape(pixels.shape)
        raise InvalidInput("frame", expected=_EXPECTED, got=actual, fix=fix)
    if pixels.size == 0:
        raise InvalidInput("frame", expected="at least one pixel", got=actual, fix="check how it was cropped")


def _kind(frame: object) -> str:
    return "None" if frame is None else f"{type(frame).__module__}.{type(frame).__qualname__}"


def _has(frame: object, name: str) -> bool:
    try:
        return hasattr(frame, name)
    except Exception:  # an attribute may raise anything
        return False


def _fix_type(frame: object) -> str:
    if frame is None:
        return "cv2.imread returns None for a file that it cannot read; check the path"
    if isinstance(frame, str | os.PathLike):
        return "run(cv2.imread(path)); for a video, stream(imp_trt.video.open_source(path))"
    if isinstance(frame, list | tuple):
        return "run_batch(frames) for several frames; numpy.asarray(frame) for one"
    if on_device(frame):
        return (
            "tensor.cpu().numpy() or array.get(); only a TensorRT engine takes frames on the GPU "
            "(imp-export --target tensorrt)"
        )
    if _has(frame, "detach"):
        return "tensor.detach().cpu().numpy()"
    return "numpy.asarray(frame)"


def _fix_mode(mode: str) -> str:
    # Pillow clips more than 8 bits: an image of 16 becomes white, and one of values from 0 to 1 black.
    if mode == "F":
        levels = "(numpy.asarray(image) * 255).round().clip(0, 255).astype(numpy.uint8)"
        return f"Image.fromarray({levels}).convert('RGB') for values 0-1"
    if mode.startswith("I"):
        levels = "(numpy.asarray(image) >> 8).astype(numpy.uint8)"
        return f"Image.fromarray({levels}).convert('RGB') if it uses all 16 bits"
    return "image.convert('RGB')"


def _fix_dtype(dtype: np.dtype[np.generic]) -> str:
    if dtype.kind == "u" and dtype.itemsize == 2:
        return "(frame >> 8).astype(numpy.uint8) if it uses all 16 bits"
    if dtype == np.bool_:
        return "frame.astype(numpy.uint8) * 255"
    if dtype.kind == "f":
        return "(frame * 255).round().clip(0, 255).astype(numpy.uint8) for values 0-1"
    return "frame.clip(0, 255).astype(numpy.uint8)"


_TENSOR_FIXES = {
    "u": "(tensor.int() >> 8).to(torch.uint8) if it uses all 16 bits",
    "b": "tensor.to(torch.uint8) * 255",
    "f": "(tensor * 255).round().clamp(0, 255).to(torch.uint8) for values 0-1",
}
"""Kind of dtype -> conversion; PyTorch has other names than NumPy for most of it."""


def _fix_tensor_dtype(dtype: np.dtype[np.generic]) -> str:
    return _TENSOR_FIXES.get(dtype.kind, "tensor.clamp(0, 255).to(torch.uint8)")


def _fix_tensor_shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[0] == 3:
        return "tensor.permute(1, 2, 0)"
    if len(shape) == 3 and shape[2] == 4:
        return "tensor[..., :3]"
    if len(shape) == 3 and shape[2] == 1:
        return "tensor.expand(-1, -1, 3)"
    if len(shape) == 2 and shape[1] != 3:
        return "tensor[..., None].expand(-1, -1, 3); imp_trt.Nv12Frame(tensor) if it is NV12"
    return _fix_shape(shape)


def _fix_shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 2 and shape[1] == 3:
        return "this is a row of a frame: run(frame) for one frame, run_batch([frame]) for a list"
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        return "cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR); imp_trt.Nv12Frame(frame) if it is NV12"
    if len(shape) == 3 and shape[2] == 4:
        return "cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR)"
    if len(shape) == 3 and shape[0] == 3:
        return "frame.transpose(1, 2, 0)"
    if len(shape) == 4:
        return "pass the frames of a batch one by one, or to run_batch"
    return "pass an image"
