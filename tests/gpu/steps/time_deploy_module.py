# SPDX-License-Identifier: Apache-2.0
"""Times of the deploy module in PyTorch on a GPU: eager, as a CUDA graph, and the same network without IMP.

Random weights, one frame. Keys, in microseconds: deploy_eager_us, deploy_cuda_graph_us, deploy_without_imp_us
(as a CUDA graph; the difference is the cost of IMP). The graph's outputs must be those of the eager module,
bit for bit.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from imp_trt.models.deploy import DeployModule
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import system, without_imp
from imp_trt.synthetic import SCENE_CLASSES
from tests.gpu.steps.on_gpu import need_gpu, need_torch, report

# dtype, height, width; what decides the most first
CASES = (
    (torch.float16, 512, 1024),
    (torch.bfloat16, 512, 1024),
    (torch.float16, 1024, 2048),
    (torch.bfloat16, 1024, 2048),
)
BACKBONE, WARM_UP, RUNS = "resnet50", 5, 30


def module_of(imp: bool, dtype: torch.dtype, size: tuple[int, int]) -> DeployModule:
    torch.manual_seed(0)
    config = system("panoptic-fpn-imp", SCENE_CLASSES, size, BACKBONE)
    network = ImpNetwork(config if imp else without_imp(config)).eval()
    return DeployModule(network, dtype=dtype).cuda()


def median_us(work: Callable[[], object]) -> float:
    """GPU time between events, median."""
    for _ in range(WARM_UP):
        work()
    times = []
    for _ in range(RUNS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(1e3 * begin.elapsed_time(end))
    return statistics.median(times)


def capture(module: DeployModule, frames: Tensor) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
    """The module as a graph, and the tensors that each replay writes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            module(frames)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = module(frames)
    return graph, outputs


def measure(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Time one case; whether the graph gives the eager module's bits."""
    tag = f"{BACKBONE}, {size[0]}x{size[1]}, {str(dtype).removeprefix('torch.')}"
    frames = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, device="cuda")
    with_imp, same = _with_imp(tag, module_of(True, dtype, size), frames)
    without, _ = capture(module_of(False, dtype, size), frames)
    without_us = median_us(without.replay)
    report(deploy_without_imp_us={tag: round(without_us, 1)})
    cost = f"{1e-3 * with_imp:.2f} ms as a CUDA graph, of which IMP {1e-3 * (with_imp - without_us):.2f} ms"
    report(verdict=f"{tag}: {cost}{'' if same else '; other bits than eager'}")
    return same


def _with_imp(tag: str, module: DeployModule, frames: Tensor) -> tuple[float, bool]:
    """Time of the module as a graph, and whether its outputs are the eager ones."""
    eager = [output.clone() for output in module(frames)]
    report(deploy_eager_us={tag: round(median_us(lambda: module(frames)), 1)})
    graph, outputs = capture(module, frames)
    graph.replay()
    torch.cuda.synchronize()
    same = all(torch.equal(a, b) for a, b in zip(eager, outputs, strict=True))
    time_us = median_us(graph.replay)
    report(deploy_cuda_graph_us={tag: round(time_us, 1)}, deploy_graph_equals_eager={tag: same})
    return time_us, same


def main() -> int:
    need_gpu()
    need_torch()
    torch.backends.cudnn.benchmark = True
    with torch.inference_mode():
        same = [measure(dtype, (height, width)) for dtype, height, width in CASES]
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
