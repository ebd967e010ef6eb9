# SPDX-License-Identifier: Apache-2.0
"""build_worker without its last step: the engine inspector needs a GPU."""

from __future__ import annotations

import os
import sys

from imp_trt.export.tensorrt import build_worker

build_worker._inspect = lambda trt, logger, plan, job: None

if __name__ == "__main__":
    code = build_worker.main()
    sys.stderr.flush()
    os._exit(code)
