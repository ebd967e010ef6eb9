# SPDX-License-Identifier: Apache-2.0
"""What `import imp_trt` costs beyond `import numpy`, in paired fresh processes.

python -m tests.bench.bench_import [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time

GOAL_S = 0.2


def seconds(statement: str) -> float:
    """Wall time of a fresh interpreter that runs one statement."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    loaded = "import imp_trt, sys; assert not {'torch', 'cv2', 'onnxruntime', 'tensorrt'} & set(sys.modules)"
    seconds(loaded)  # the answer is checked, and the byte code cached, before time counts
    extra = []
    for _ in range(options.pairs):
        base = seconds("import numpy")
        extra.append(seconds("import imp_trt") - base)
    milliseconds = round(1e3 * statistics.median(extra))
    result = {
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "median_extra_ms": milliseconds,
        "goal_ms": round(1e3 * GOAL_S),
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(f"import imp_trt - import numpy: {milliseconds} ms, goal <= {round(1e3 * GOAL_S)} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
