# SPDX-License-Identifier: Apache-2.0
"""Data parallel training under ``torchrun``: each process trains on its part of the same global batch.

Without ``torchrun`` there is one process, of rank 0, and no communication.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from imp_trt.errors import UsageError

# The first process evaluates alone, many images for longer than PyTorch's 10 (NCCL) or 30 minutes (gloo).
# torchrun notices that a process has ended.
_TIMEOUT = timedelta(days=1)


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Initialize the process group under torchrun; yields the device of this process.

    The backend is gloo on CPUs and NCCL on GPUs. Several machines need a shared output folder.

    Args:
        device: "cpu", "cuda" or "cuda:<index>"; under torchrun each process uses the GPU of its local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield device
        return
    if device.startswith("cuda"):
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
        torch.cuda.set_device(device)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    distributed.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def world_size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Rank of this process; rank 0 writes files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def part_of(batch: int) -> slice:
    """Slice of the global batch for this process.

    Raises:
        UsageError: the batch is not divisible by the number of processes.
    """
    share, rest = divmod(batch, world_size())
    if rest:
        raise UsageError(
            "batch",
            expected=f"a multiple of the {world_size()} processes",
            got=batch,
            fix="choose another --batch-size, or another number of processes",
        )
    return slice(rank() * share, (rank() + 1) * share)


def parallel(module: nn.Module, device: str) -> nn.Module:
    """Wrap a module in DistributedDataParallel; returns the module itself for a single process.

    Some heads have no gradient in a step without detections, hence find_unused_parameters.
    """
    if world_size() == 1:
        return module
    if device.startswith("cuda"):
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(module, find_unused_parameters=True)


def mean(values: Tensor) -> Tensor:
    """Mean over the processes; the argument itself is returned for a single process and never modified."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / world_size()


def any_process(flag: bool, device: str) -> bool:
    """Whether the flag is set in any process; all processes must stop at the same step."""
    if world_size() == 1:
        return flag
    return bool(mean(torch.tensor(float(flag), device=device)) > 0)


def wait() -> None:
    """Block until all processes have reached this call."""
    if world_size() > 1:
        distributed.barrier()
