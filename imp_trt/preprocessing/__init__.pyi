# SPDX-License-Identifier: Apache-2.0
from .device_arrays import DeviceFrame as DeviceFrame
from .letterbox import LetterboxTransform as LetterboxTransform
from .nv12 import Nv12Frame as Nv12Frame

Fit = LetterboxTransform  # deprecated
