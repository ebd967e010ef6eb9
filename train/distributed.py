"""Data parallel training under ``torchrun``: every process takes its part of the same global batch.

Without ``torchrun`` there is one process, of rank 0, and nothing here communicates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from imp_trt.errors import UsageError


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that torchrun started; yields the device of this one.

    gloo connects processes on CPUs, nccl those on GPUs. Several machines need a common output folder.

    Args:
        device: "cpu", "cuda" or "cuda:<index>"; under torchrun each process takes the GPU of its local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield device
        return
    if device.startswith("cuda"):
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def world_size() -> int:
    """Processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process; the one of rank 0 writes files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def part_of(batch: int) -> slice:
    """Which samples of the global batch this process takes.

    Raises:
        UsageError: the batch cannot be shared out evenly.
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
    """The module with gradients averaged over the processes; itself where there is one process.

    A head may have no part in a step: a batch without detections leaves the canvas empty.
    """
    if world_size() == 1:
        return module
    if device.startswith("cuda"):
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(module, find_unused_parameters=True)


def mean(values: Tensor) -> Tensor:
    """The mean over the processes; the argument is left alone."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / world_size()


def any_process(flag: bool, device: str) -> bool:
    """Whether the flag is set in any process: all of them must stop at the same step."""
    if world_size() == 1:
        return flag
    return bool(mean(torch.tensor(float(flag), device=device)) > 0)


def wait() -> None:
    """Until every process is here."""
    if world_size() > 1:
        distributed.barrier()
