# SPDX-License-Identifier: Apache-2.0
"""A network in use while its process forks or ends: nothing hangs, aborts, or gives another answer."""

from __future__ import annotations

import dis
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import numpy as np
import pytest

from imp_trt import Segmenter
from imp_trt.backends import open_backend
from imp_trt.data import native_calls
from imp_trt.data.native_calls import CallLock, native_call
from imp_trt.errors import ArtifactError, InvalidInput
from tests.support import tiny
from tests.support.forks import in_child

LIMIT_S = 180

HEAD = """
import os, sys, threading, time
import numpy as np, imp_trt
from imp_trt.backends import open_backend
path, threads = sys.argv[1], int(sys.argv[2])
frame = np.zeros((480, 640, 3), np.uint8)
segmenter = imp_trt.Segmenter(path, threads=threads)
wanted = segmenter.run(frame).semantic
def forever():
    while True: segmenter.run(frame)
def fork(work):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    work()
    sys.exit(0)
def check():
    assert np.array_equal(segmenter.run(frame).semantic, wanted)
"""

PROGRAMS = {
    "ends while a daemon thread runs the network": """
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.3)
""",
    "ends while a daemon thread runs the backend": """
backend = open_backend(path, threads=threads)
batch = np.zeros((1, 64, 96, 3), np.uint8)
def forever():
    while True: backend.infer(batch)
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.3)
""",
    "ends while daemon threads open networks": """
def forever():
    while True: imp_trt.Segmenter(path, threads=threads)
for _ in range(3): threading.Thread(target=forever, daemon=True).start()
time.sleep(0.5)
""",
    "an exit handler uses the network": """
import atexit
atexit.register(segmenter.close)
atexit.register(check)
""",
    "an exit handler waits for a daemon thread": """
import atexit
ended = threading.Event()
def until_the_end():
    while not ended.is_set(): segmenter.run(frame)
thread = threading.Thread(target=until_the_end, daemon=True)
atexit.register(lambda: (ended.set(), thread.join()))
segmenter = imp_trt.Segmenter(path, threads=threads)  # its own exit handler runs before that
thread.start()
time.sleep(0.3)
""",
    "idle, the child does nothing": "assert fork(lambda: None) == 0",
    "idle, the child closes it": "assert fork(segmenter.close) == 0",
    "idle, the child runs it": "assert fork(check) == 0\ncheck()",
    "a child's child runs it": "assert fork(lambda: (check(), sys.exit(fork(check)))) == 0",
    "busy, children run it": """
for _ in range(2): threading.Thread(target=forever, daemon=True).start()
for _ in range(5): assert fork(check) == 0
""",
    "busy, the child runs it in threads": """
def several():
    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
threading.Thread(target=forever, daemon=True).start()
assert fork(several) == 0
""",
}


def run(program: str, path: Path, threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program, str(path), str(threads)],
        # Python 3.12 warns of every fork of a process with threads, which is what these programs do.
        env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("what", PROGRAMS)
def test_onnx_runtime(tmp_path: Path, what: str, threads: int) -> None:
    run(PROGRAMS[what], tiny.artifact(tmp_path), threads)


@pytest.mark.slow
def test_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    program = PROGRAMS["ends while a daemon thread runs the backend"]
    assert "open_backend(path, " in program
    for _ in range(3):
        run(program.replace("(path, ", "(path, 'openvino', "), tiny.artifact(tmp_path), 2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from imp_trt.models.checkpoint import save_checkpoint
    from tests.support.networks import detecting_network, small_config

    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    return save_checkpoint(path, detecting_network(small_config()), {"data": "none", "terms": None})


@pytest.mark.slow
def test_pytorch(checkpoint: Path) -> None:
    names = ("idle, the child does nothing", "a child's child runs it", "busy, the child runs it in threads")
    run("\n".join(PROGRAMS[name] for name in names), checkpoint, 2)


def test_a_child_rejects_a_file_that_was_replaced(tmp_path: Path) -> None:
    path = tiny.artifact(tmp_path)
    with Segmenter(path) as segmenter:
        other = tiny.graph(num_detections=1).SerializeToString()
        tiny.write_artifact(path, other, tiny.manifest())

        def use() -> None:
            with pytest.raises(ArtifactError, match="forked process"):
                segmenter.run(tiny.frame())

        assert in_child(use) == 0
        assert len(segmenter.run(tiny.frame()).instances) == 2


def test_a_child_finds_the_file_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.artifact(tmp_path)
    monkeypatch.chdir(tmp_path)
    with Segmenter("tiny.fp32.onnx") as segmenter:
        monkeypatch.chdir("/")
        assert in_child(lambda: segmenter.run(tiny.frame())) == 0


def test_a_closed_network_stays_closed_in_a_child(tmp_path: Path) -> None:
    backend = open_backend(tiny.artifact(tmp_path))
    backend.close()

    def use() -> None:
        with pytest.raises(InvalidInput, match="closed"):
            backend.infer(tiny.frame()[None])

    assert in_child(use) == 0


def test_pytorch_on_a_gpu_gives_an_error_in_a_child(checkpoint: Path) -> None:
    import torch

    backend = open_backend(checkpoint)
    backend._device = torch.device("cuda", 0)  # type: ignore[attr-defined]

    def use() -> None:
        with pytest.raises(InvalidInput, match="spawn"):
            backend.infer(tiny.frame()[None])

    assert in_child(use) == 0


def work(path: Path) -> int:
    with Segmenter(path) as segmenter:
        return int(segmenter.run(tiny.frame()).semantic.sum())


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_worker_processes(tmp_path: Path, method: str) -> None:
    path = tiny.artifact(tmp_path)
    with Segmenter(path, threads=2) as segmenter:
        wanted = int(segmenter.run(tiny.frame()).semantic.sum())
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map_async(work, [path] * 4).get(LIMIT_S) == [wanted] * 4


@contextmanager
def elsewhere(enter: Callable[[], object]) -> Iterator[threading.Event]:
    """A thread that is in a call until the event is set."""
    inside, leave = threading.Event(), threading.Event()

    def body() -> None:
        with enter():  # type: ignore[attr-defined]
            inside.set()
            leave.wait(LIMIT_S)

    thread = threading.Thread(target=body)
    thread.start()
    inside.wait(LIMIT_S)
    try:
        yield leave
    finally:
        leave.set()
        thread.join()


@pytest.mark.parametrize("enter", [native_call, CallLock])
def test_a_fork_waits_for_calls_in_other_threads(enter: Callable[[], object]) -> None:
    with elsewhere(enter) as leave:
        threading.Timer(0.2, leave.set).start()
        start = time.perf_counter()
        assert in_child(lambda: None) == 0
        assert time.perf_counter() - start >= 0.15


def test_a_fork_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_calls, "LONGEST_CALL_S", 0.1)
    lock = CallLock()

    def use() -> None:
        with lock, native_call():
            pass

    with elsewhere(lambda: lock):
        assert in_child(use) == 0
    use()


def test_a_fork_within_a_call_goes_on(tmp_path: Path) -> None:
    lock = CallLock()

    def fork() -> None:
        with lock, native_call():
            child = os.fork()
        if child == 0:
            with lock:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    fork()
    with lock:
        pass


def interrupted(number: int, work: Callable[[], object]) -> bool:
    """Work with KeyboardInterrupt at the number-th place in native_calls where Python handles signals.

    Returns:
        Whether there are that many.
    """
    files = {native_calls.__file__, threading.__file__}
    names: dict[CodeType, dict[int, str]] = {}
    before: dict[FrameType, str] = {}
    left = number

    def trace(frame: FrameType, event: str, argument: object) -> object:
        nonlocal left
        code = frame.f_code
        if code.co_filename not in files:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            opcodes = names.setdefault(code, {i.offset: i.opname for i in dis.get_instructions(code)})
            if before.get(frame, "").startswith(("CALL", "JUMP", "POP_JUMP", "RESUME")):
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
            before[frame] = opcodes[frame.f_lasti]
        return trace

    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="needs opcodes traced after a trace function raised")
@pytest.mark.parametrize("enter", [native_call, CallLock])
def test_an_interrupt_anywhere_leaves_no_call_open(enter: Callable[[], object]) -> None:
    problems: list[object] = []

    def use(context: object) -> None:
        with context:  # type: ignore[attr-defined]
            pass

    def body() -> None:
        for number in itertools.count():
            context = enter()
            if not interrupted(number, lambda context=context: use(context)):  # type: ignore[misc]
                problems.append(None if number > 10 else number)
                return
            lock = context if enter is CallLock else native_call()
            use(lock)
            if threading.get_ident() in native_calls._gate._inside:
                problems.append(f"{number}: still in a call")
            other = threading.Thread(target=use, args=(lock if enter is CallLock else native_call(),))
            other.daemon = True
            other.start()
            other.join(10)
            if other.is_alive():
                problems.append(f"{number}: another thread waits")
                return

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    assert problems == [None], "the thread itself waits" if thread.is_alive() else problems


def test_a_call_within_a_call_is_rejected() -> None:
    lock = CallLock()
    with lock:
        with pytest.raises(InvalidInput, match="within a call of itself"), lock:
            pass
    with lock:
        pass


def test_a_network_that_is_dropped_is_released(tmp_path: Path) -> None:
    import gc
    import weakref

    backend = open_backend(tiny.artifact(tmp_path))
    alive = weakref.ref(backend)
    del backend
    gc.collect()
    assert alive() is None


def test_frames_run_as_before_in_the_parent(tmp_path: Path) -> None:
    with Segmenter(tiny.artifact(tmp_path)) as segmenter:
        assert in_child(lambda: None) == 0
        assert np.array_equal(segmenter.run(tiny.frame()).semantic, tiny.truth(tiny.frame()))
