# SPDX-License-Identifier: Apache-2.0
from .device_arrays import DeviceFrame as DeviceFrame
from .letterbox import LetterboxTransform as LetterboxTransform

Fit = LetterboxTransform  # deprecated
