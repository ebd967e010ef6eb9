# SPDX-License-Identifier: Apache-2.0
"""The one place that imports OpenVINO, with its telemetry switched off."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

TELEMETRY_MODULE = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """OpenVINO, which would write an id to the home folder, and send an event from a process of its own.

    That happens when it is imported. It has no setting against it for one program, but does without its
    package for telemetry, which is hidden from it here. If the program imported OpenVINO before, nothing
    changes.

    Raises:
        ImportError: it is not installed, or cannot be loaded.
    """
    if "openvino" in sys.modules:
        return import_module("openvino")
    before = {name: module for name, module in sys.modules.items() if name == TELEMETRY_MODULE}
    sys.modules[TELEMETRY_MODULE] = None  # type: ignore[assignment]  # its import then raises ImportError
    try:
        return import_module("openvino")
    finally:
        del sys.modules[TELEMETRY_MODULE]
        sys.modules.update(before)
