# SPDX-License-Identifier: Apache-2.0
"""`LetterboxTransform` as CUDA kernels, for frames that are on the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int, c_longlong, c_void_p
from typing import TYPE_CHECKING

from imp_trt.cuda import kernels
from imp_trt.cuda.driver import Device
from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.preprocessing.device_arrays import DeviceFrame
    from imp_trt.preprocessing.letterbox import LetterboxTransform

_OP = "frame_fit"


def prepare(device: Device) -> None:
    """Compiles and loads the kernels; raises what `imp_trt.cuda.kernels.prepare` raises."""
    kernels.prepare(_OP, device)


def launch_letterbox(
    transform: LetterboxTransform,
    frame: int,
    row_pitch: int,
    swap_red_blue: bool,
    out: int,
    pad_value: int,
    stream: int,
    device: Device,
) -> None:
    """Enqueues `transform.apply` on the GPU.

    Args:
        transform: sizes of frame and network.
        frame: device pointer to uint8 [h, w, 3], pixels contiguous within a row.
        row_pitch: bytes from one row of frame to the next.
        swap_red_blue: whether to reverse the order of the channels.
        out: device pointer to uint8 [H, W, 3], contiguous; every byte is written.
        pad_value: gray level outside the image.
        stream: handle of a stream of device.
        device: made current in this thread.
    """
    height, width = transform.network
    args = [
        (frame, c_void_p),
        (out, c_void_p),
        (row_pitch, c_longlong),
        *((side, c_int) for side in (*transform.frame, *transform.resized, height, width)),
        (int(swap_red_blue), c_int),
        (pad_value, c_int),
    ]
    _launch("imp_frame_fit", height, width, args, stream, device)


def launch_letterbox_nv12(
    transform: LetterboxTransform, frame: DeviceFrame, out: int, pad_value: int, stream: int, device: Device
) -> None:
    """Enqueues the conversion of an NV12 frame to BGR and `transform.apply`, as one kernel.

    Args:
        transform: sizes of frame and network.
        frame: in NV12.
        out, pad_value, stream, device: as for `launch_letterbox`.

    Raises:
        UsageError: the frame has packed pixels.
    """
    chroma = frame.chroma
    if chroma is None:
        raise UsageError("frame", expected="NV12", got="packed pixels", fix="launch_letterbox")
    height, width = transform.network
    args = [
        *((pointer, c_void_p) for pointer in (frame.pointer, chroma.pointer, out)),
        *((pitch, c_longlong) for pitch in (frame.row_pitch, chroma.row_pitch)),
        *((side, c_int) for side in (*transform.frame, *transform.resized, height, width)),
        (pad_value, c_int),
        *((number, c_int) for number in chroma.to_bgr),
    ]
    _launch("imp_frame_fit_nv12", height, width, args, stream, device)


def launch_invert_mask(
    transform: LetterboxTransform, semantic: int, out: int, stream: int, device: Device
) -> None:
    """Enqueues `transform.invert_mask` on the GPU.

    Args:
        transform: sizes of frame and network.
        semantic: device pointer to uint8 [H, W], contiguous.
        out: device pointer to uint8 [h, w], contiguous; every byte is written.
        stream: handle of a stream of device.
        device: made current in this thread.
    """
    height, width = transform.frame
    sides = (*transform.network, *transform.resized, height, width)
    args = [(semantic, c_void_p), (out, c_void_p), *((side, c_int) for side in sides)]
    _launch("imp_semantic_back", height, width, args, stream, device)


def _launch(
    entry: str, height: int, width: int, args: Sequence[tuple[int, object]], stream: int, device: Device
) -> None:
    constants = kernels.geometry(_OP)
    block = (constants["IMP_FF_BLOCK_W"], constants["IMP_FF_BLOCK_H"], 1)
    grid = (-(-width // block[0]), -(-height // block[1]), 1)
    kernels.load(_OP, entry, device, stream).launch(grid, block, stream, args)
