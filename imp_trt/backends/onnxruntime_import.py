# SPDX-License-Identifier: Apache-2.0
"""The one place that imports ONNX Runtime, with its telemetry switched off."""

from __future__ import annotations

import os
from types import ModuleType

TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"
"""ONNX Runtime's own: "1" switches its telemetry off. A value that is set already is kept."""


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime, which from 1.29 on would write a device id to the home folder and send events.

    That is decided when it is imported. If the program imported it before, no more events are recorded.

    Raises:
        ImportError: it is not installed, or cannot be loaded.
    """
    value = os.environ.setdefault(TELEMETRY_VARIABLE, "1")
    import onnxruntime

    if value.lower() not in ("0", "false") and hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    module: ModuleType = onnxruntime
    return module
