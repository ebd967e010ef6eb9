# SPDX-License-Identifier: Apache-2.0
"""Frames in NV12, as video decoders have them: the type, the layout of its planes, and its colors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from imp_trt.errors import InvalidInput
from imp_trt.preprocessing.array_input import ArrayInput

Matrix = Literal["bt601", "bt709"]
"""Matrix between RGB and YUV: ITU-R BT.601 (OpenCV, small video) or BT.709 (most video from 720 lines)."""

ColorRange = Literal["limited", "full"]
"""Y from 16 to 235 and U, V from 16 to 240 ("tv", "mpeg"), or all from 0 to 255 ("pc", "jpeg")."""


@dataclass(frozen=True, eq=False)
class Nv12Frame:
    """A frame in NV12, the format of hardware decoders: Y for each pixel, U and V for each 2 x 2 pixels.

    Segmenter.run takes it like a BGR frame. An engine reads planes on its GPU in place: one kernel converts
    and resizes, and no BGR frame is written. Elsewhere the frame is converted on the CPU.

    >>> segmenter.run(Nv12Frame(decoded))                       # [h * 3 / 2, w]: OpenCV, PyNvVideoCodec
    >>> segmenter.run(Nv12Frame(*frame.planes, matrix="bt709"))  # PyAV

    BGR levels are those of cv2.COLOR_YUV2BGR_NV12 for the default matrix and range; U and V are not
    interpolated. A level of Y below black counts as black.

    Attributes:
        y: [h, w] or [h, w, 1] uint8, h and w even, pixels packed, rows any number of bytes apart. If uv is
            None, [h * 3 / 2, w]: the rows of Y, and then those of U and V. A NumPy array, a PyTorch tensor
            on the CPU or anything with DLPack; for an engine also an array on its GPU with DLPack or
            __cuda_array_interface__. It is not changed.
        uv: [h / 2, w / 2, 2] or [h / 2, w] uint8, U before V, in the same kind of memory.
        matrix: of the stream's colors.
        color_range: of the stream's levels.

    Raises:
        InvalidInput: another matrix or range. The planes are checked when the frame is used.
    """

    y: ArrayInput
    uv: ArrayInput | None = None
    matrix: Matrix = "bt601"
    color_range: ColorRange = "limited"

    def __post_init__(self) -> None:
        for name, given, known in (
            ("matrix", self.matrix, get_args(Matrix)),
            ("color_range", self.color_range, get_args(ColorRange)),
        ):
            if given not in known:
                raise InvalidInput(name, expected=f"one of {', '.join(known)}", got=repr(given))


class YuvToBgr(NamedTuple):
    """What a level of Y, U and V adds to blue, green and red, in units of 2^-20 levels.

    blue = (y * max(Y - black, 0) + u_to_b * (U - 128) + 2^19) >> 20, limited to 0-255, and so on. Any byte
    fits in 32 bits.

    Attributes:
        black: the level of Y that is black.
    """

    black: int
    y: int
    u_to_b: int
    u_to_g: int
    v_to_g: int
    v_to_r: int

    @classmethod
    def of(cls, frame: Nv12Frame) -> YuvToBgr:
        """The conversion of a frame's colors."""
        return _CONVERSIONS[frame.matrix, frame.color_range]


def _conversion(kr: float, kb: float, color_range: ColorRange) -> YuvToBgr:
    """From the weights of red and blue in Y, as the ITU defines a matrix."""
    black, luma, chroma = (16, 255 / 219, 255 / 224) if color_range == "limited" else (0, 1.0, 1.0)
    blue, red, kg = 2 * (1 - kb) * chroma, 2 * (1 - kr) * chroma, 1 - kr - kb
    factors = (luma, blue, -blue * kb / kg, -red * kr / kg, red)
    return YuvToBgr(black, *(round(factor * 2**20) for factor in factors))


_CONVERSIONS: dict[tuple[Matrix, ColorRange], YuvToBgr] = {
    # OpenCV's, which has three decimals: 1.164, 2.018, -0.391, -0.813, 1.596.
    ("bt601", "limited"): YuvToBgr(16, 1220542, 2116026, -409993, -852492, 1673527),
    ("bt601", "full"): _conversion(0.299, 0.114, "full"),
    ("bt709", "limited"): _conversion(0.2126, 0.0722, "limited"),
    ("bt709", "full"): _conversion(0.2126, 0.0722, "full"),
}


class Plane(NamedTuple):
    """The layout of a plane: `rows` of `width` bytes, `pitch` bytes from one to the next."""

    rows: int
    width: int
    pitch: int


def plane_layout(name: str, shape: Sequence[int], strides: Sequence[int] | None) -> Plane:
    """The layout of a uint8 array of two or three dimensions.

    Args:
        name: of the plane, for the error.
        shape: of the array.
        strides: in bytes; None means contiguous.

    Raises:
        InvalidInput: another number of dimensions, or the bytes of a row are not contiguous.
    """
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise InvalidInput(
            name, expected="a uint8 array [rows, width] or [rows, width / 2, 2]", got=f"shape {list(shape)}"
        )
    rows, width = shape[0], math.prod(shape[1:])
    pitch, packed = width, True
    if strides is not None:
        # A dimension with one element has any stride.
        inner = [stride for side, stride in zip(shape[1:], strides[1:], strict=True) if side > 1]
        sides = [side for side in shape[1:] if side > 1]
        packed = inner == [math.prod(sides[i + 1 :]) for i in range(len(sides))]
        pitch = strides[0] if rows > 1 else width
    if not packed or pitch < width:
        raise InvalidInput(
            name,
            expected="packed pixels, and rows at least their width apart",
            got=f"strides {tuple(strides or ())} for shape {tuple(shape)}",
            fix="pass a contiguous copy of the plane",
        )
    return Plane(rows, width, pitch)


def frame_size(y: Plane, uv: Plane | None) -> tuple[int, int]:
    """(h, w) of the frame with these planes; None: both are in y.

    Raises:
        InvalidInput: odd sides, or planes of different sizes.
    """
    if uv is None:
        if y.rows % 3 or y.width % 2:
            raise InvalidInput(
                "NV12 frame",
                expected="[h * 3 / 2, w] with even h and w",
                got=f"[{y.rows}, {y.width}]",
                fix="pass the planes: Nv12Frame(y, uv)",
            )
        return y.rows // 3 * 2, y.width
    h, w = y.rows, y.width
    if h % 2 or w % 2:
        raise InvalidInput(
            "NV12 frame",
            expected="an even height and width",
            got=f"{h} x {w}",
            fix="crop the Y plane to an even height and width",
        )
    if (uv.rows, uv.width) != (h // 2, w):
        raise InvalidInput(
            "UV plane",
            expected=f"[{h // 2}, {w // 2}, 2] for a Y plane [{h}, {w}]",
            got=f"{uv.rows} rows of {uv.width} bytes",
            fix="crop both planes alike",
        )
    return h, w
