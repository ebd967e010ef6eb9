# SPDX-License-Identifier: Apache-2.0
"""Ends of a stage before its last step, at which the state is saved: failures, signals, the deadline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imp_trt.errors import DatasetError, ImpTrtError
from imp_trt.train import distributed
from imp_trt.train.state import StopRequest, TimeBudgetSpent
from imp_trt.train.targets import Batch

_LOGGER = logging.getLogger("imp_trt.train")


def next_batch(
    batches: Iterator[Batch], save: Callable[[int], None], step: int, first: int, device: str
) -> Batch:
    """The batch of a step; if a process cannot read its images, the state is saved and all processes fail."""
    batch, failure = None, None
    try:
        batch = next(batches)
    except Exception as error:
        failure = error
    failed = distributed.any_process(failure is not None, device)
    if batch is not None and not failed:
        return batch
    _save_after_failure(save, step, first)
    distributed.wait()  # torchrun ends the others as soon as one has failed
    raise failure or DatasetError("images of another process", expected="readable files", got="an error")


@contextmanager
def saved_on_failure(save: Callable[[int], None], step: int, first: int) -> Iterator[None]:
    """Save the state before a step whose images cannot be read: hours may have passed since the last one."""
    try:
        yield
    except Exception:
        _save_after_failure(save, step, first)
        raise


def _save_after_failure(save: Callable[[int], None], step: int, first: int) -> None:
    if step == first:
        return
    try:
        save(step)
        if distributed.rank() == 0:
            _LOGGER.info("the state is saved; the same command resumes before step %d", step)
    except (OSError, ImpTrtError) as error:
        _LOGGER.warning("the state cannot be saved: %s", error)


def stop_if_requested(
    stop: StopRequest, step: int, steps: range, save: Callable[[int], None], device: str
) -> None:
    """Save the state before a step and stop, if a process was asked to.

    Raises:
        KeyboardInterrupt: by a signal.
        TimeBudgetSpent: by the deadline.
    """
    if not distributed.any_process(stop.requested, device):
        return
    if step > steps.start:
        save(step)
    distributed.wait()
    if distributed.any_process(stop.signaled, device):
        _LOGGER.info("stopped before step %d of %d; the same command resumes there", step, steps.stop)
        raise KeyboardInterrupt
    raise TimeBudgetSpent(
        "training",
        expected=f"{steps.stop} steps",
        got=f"the deadline before step {step}",
        fix="run the same command again with more time; it resumes there",
    )
