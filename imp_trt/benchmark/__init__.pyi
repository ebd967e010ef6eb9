# SPDX-License-Identifier: Apache-2.0
from .gates import Gate as Gate
from .gates import parse_gate as parse_gate
from .measure import Latency as Latency
from .measure import Throughput as Throughput
from .measure import measure_latency as measure_latency
from .measure import measure_throughput as measure_throughput
from .report import Report as Report
from .run import Settings as Settings
from .run import run_benchmark as run_benchmark
