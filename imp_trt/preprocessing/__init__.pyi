# SPDX-License-Identifier: Apache-2.0
from .array_input import ArrayInput as ArrayInput
from .device_arrays import DeviceFrame as DeviceFrame
from .frame_like import FrameLike as FrameLike
from .frames import ColorOrder as ColorOrder
from .letterbox import LetterboxTransform as LetterboxTransform
from .nv12 import Nv12Frame as Nv12Frame

Fit = LetterboxTransform  # deprecated
