# SPDX-License-Identifier: Apache-2.0
"""For all tests."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Generator
from contextlib import nullcontext

import pytest

from tests.support.once import alone, share

WORKERS = 2
"""As many as the fewest cores on which the suite is expected to run."""

# A shell starts its background jobs with Ctrl-C ignored. Tests that interrupt themselves or a program that
# they start would then wait forever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Bytecode is kept: each of the hundreds of programs that the tests start would compile the package anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Each worker process of pytest-xdist has one core: threads of PyTorch would only wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# Tests do not wait for the disk: only a power failure tells the difference. Programs that they start do.
os.fsync = os.fstat


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Runs in WORKERS processes, each file in one of them, unless options say otherwise (-n 0, -p no:xdist).

    Tests of one file and those for the one GPU stay in this process, as all do without pytest-xdist.
    """
    options = config.option
    if hasattr(config, "workerinput") or not config.pluginmanager.hasplugin("xdist"):
        return
    if options.numprocesses is not None or options.dist != "no" or options.tx or options.usepdb:
        share()
        return
    paths = {argument.partition("::")[0] for argument in config.args}
    if options.markexpr == "gpu" or (len(paths) == 1 and paths.pop().endswith(".py")):
        return
    share()
    options.numprocesses, options.dist, options.loadscopereorder = WORKERS, "loadfile", False
    if options.maxworkerrestart is None:
        # The tests of a file that a new process repeats are never counted as done: pytest would wait forever.
        options.maxworkerrestart = "0"


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Exhaustive tests are slow, and files with slow tests are first in a worker process.

    So none is left alone with one at the end.
    """
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker("slow")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tests of the one GPU run one at a time: some of them look at how much of its memory is free."""
    with alone("gpu") if item.get_closest_marker("gpu") else nullcontext():
        return (yield)


def pytest_collection_finish() -> None:
    """Collections that tests ask for need not look at PyTorch and the like again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def few_frames():
    """Exports are verified on 8 frames, not 50, unless a test says on how many."""
    from imp_trt.export.options import ExportOptions

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ExportOptions.__init__.__kwdefaults__, "frame_count", 8)
        yield


@pytest.fixture(autouse=True)
def signal_handlers():
    """A command that was interrupted twice leaves signals their default action: the next would end pytest."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def log_messages_arrive():
    """A command that ran in this process prints the messages of the package itself, and caplog sees none."""
    logger = logging.getLogger("imp_trt")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def one_thread():
    """Sums in a fixed order: what is compared to the bit must not depend on the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
