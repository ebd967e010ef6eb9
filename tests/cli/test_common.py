# SPDX-License-Identifier: Apache-2.0
"""Exit codes, one line on stderr, and nothing but results on stdout."""

from __future__ import annotations

import json
import logging
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imp_trt import errors
from imp_trt.cli.common import Progress, add_deprecated, command_parser, run_command, set_up_logging
from imp_trt.cli.printing import print_json


def _raising(error: BaseException):  # type: ignore[no-untyped-def]
    def body() -> int:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ImpTrtError("x"), 1),
        (errors.UsageError("x"), 2),
        (errors.InvalidInput("x"), 2),
        (errors.SourceError("x"), 2),
        (errors.OutputError("x"), 2),
        (errors.DatasetError("x"), 2),
        (errors.CheckpointError("x"), 2),
        (errors.ExportError("x"), 1),
        (errors.VerificationError("x"), 3),
        (errors.ArtifactError("x"), 4),
        (errors.EngineIncompatible("x"), 4),
        (errors.DependencyMissing("x"), 5),
        (errors.LatencyError("x"), 6),
        (KeyboardInterrupt(), 130),
        (ValueError("a bug\nover two lines"), 1),
        (MemoryError(), 1),
        (OSError(36, "File name too long", "x" * 300), 2),
        (OSError(12, "Cannot allocate memory"), 1),
        (ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"), 5),
        (BrokenPipeError(), 1),
    ],
)
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    stdout = sys.stdout
    try:
        assert run_command(_raising(error)) == code
    finally:
        sys.stdout = stdout
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == (0 if isinstance(error, BrokenPipeError) else 1)
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4816896 bytes"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_too_little_memory_is_no_internal_error(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(_raising(error)) == 1
    message = capsys.readouterr().err
    assert "internal" not in message
    assert "out of memory" in message
    assert "Fix: free memory, or raise the limit" in message


def test_a_call_of_the_system_that_fails_is_no_internal_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(_raising(OSError(36, "File name too long", "x" * 300))) == 2
    message = capsys.readouterr().err
    assert "internal" not in message
    assert "File name too long. Fix: correct it" in message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-o", ""], "argument -o: it is empty; check the variables"),
        (["--output="], "argument --output: it is empty"),
        (["", "-o", "out"], "an argument is empty"),
        (["in", "\x1b[31mred\n", "-o", "out"], "unrecognized arguments: ?[31mred"),
        (["in", "-o", "out"], None),
    ],
)
def test_empty_arguments_are_rejected(
    argv: list[str], words: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a path, an empty text is the current folder."""
    parser = command_parser("imp-test", "Test.")
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("-o", "--output", type=Path)
    if words is None:
        assert parser.parse_intermixed_args(argv).output == Path("out")
        return
    with pytest.raises(SystemExit) as ended:
        parser.parse_intermixed_args(argv)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert "\x1b" not in message


@pytest.mark.parametrize(("value", "code"), [(None, 0), (0, 0), (3, 3)])
def test_bodies_return_their_code(value: int | None, code: int) -> None:
    assert run_command(lambda: value) == code


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "imp-trt[torch]"),
        (ModuleNotFoundError("No module named 'onnx.helper'", name="onnx.helper"), "imp-trt[export]"),
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), "opencv-python"),
        (ImportError("libGL.so.1: cannot open shared object file", name="cv2"), "libgl1"),
        (ImportError("something else"), "imp-doctor"),
    ],
)
def test_missing_packages_say_what_to_install(
    error: ImportError, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(_raising(error))
    assert fix in capsys.readouterr().err


def test_tracebacks_only_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(_raising(errors.UsageError("x")), verbose=2)
    assert "Traceback" in capsys.readouterr().err


def test_termination_unwinds_like_an_interrupt(tmp_path: Path) -> None:
    script = f"""
import signal, time
from pathlib import Path
from imp_trt.cli.common import run_command
# Background jobs of a shell inherit an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from imp_trt.data.files import temporary_beside
def body():
    with temporary_beside(Path({str(tmp_path / "x.mp4")!r})) as name:
        name.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
raise SystemExit(run_command(body))
"""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        child = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert len(os.listdir(tmp_path)) == 1
        child.send_signal(number)
        _, text = child.communicate(timeout=30)
        assert child.returncode == 130
        assert text == "interrupted\n"
        assert os.listdir(tmp_path) == []


SAYS = """
import os, sys
from imp_trt.cli.common import Progress, run_command
from imp_trt.cli.printing import print_json, print_lines, say
def body():
    with open(sys.argv[1], "w") as file:  # must not get the number of a closed stream
        bar = Progress("imp-x", 3)
        bar._every_s = 0
        bar.update(1)
        say("said")
        print_lines("caf\\u00e9")
        print_json({"a": 1})
        bar.close()
        file.write("kept")
    return 0
raise SystemExit(run_command(body))
"""


@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        (">&-", 0, "said"),
        ("2>&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (
            ">/dev/full",
            2,
            "error: standard output cannot be written: got No space left on device. Fix: redirect it to "
            "another place, or free disk space (see docs/troubleshooting.md#output-error)",
        ),
    ],
)
def test_streams_that_are_closed_or_full(redirection: str, code: int, error: str, tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(SAYS)} {tmp_path / 'file'} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert (tmp_path / "file").read_text() == ("" if code else "kept")
    lines = done.stderr.splitlines()
    assert lines[-1:] == ([error] if error else [])
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_reader_of_messages_that_leaves_does_not_end_the_command(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(SAYS)} {tmp_path / 'file'}"
    done = subprocess.run(
        ["bash", "-c", f"{command} 2> >(exec true)"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert json.loads(done.stdout.partition("\n")[2]) == {"a": 1}


def test_any_character_is_printed_in_a_locale_of_few(tmp_path: Path) -> None:
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    env.pop("PYTHONIOENCODING", None)
    done = subprocess.run(
        [sys.executable, "-c", SAYS, tmp_path / "file"], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout.startswith("caf\\xe9\n")


@pytest.mark.slow
def test_nohup_is_respected() -> None:
    script = """
import os, signal, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from imp_trt.cli.common import run_command
from imp_trt.train.state import StopRequest
def body():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.requested
    os.kill(os.getpid(), signal.SIGHUP)
    print("goes on")
raise SystemExit(run_command(body))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr


def test_parser_has_the_common_options(capsys: pytest.CaptureFixture[str]) -> None:
    parser = command_parser("imp-x", "Does x.", "examples:\n  imp-x y")
    args = parser.parse_args(["--json", "-q", "-vv"])
    assert (args.json, args.quiet, args.verbose) == (True, True, 2)
    for argv, code in ((["--version"], 0), (["--help"], 0), (["--jso"], 2), (["extra"], 2)):
        with pytest.raises(SystemExit) as caught:
            parser.parse_args(argv)
        assert caught.value.code == code
    assert "exit codes" in capsys.readouterr().out


def test_the_last_of_several_values_counts_and_a_warning_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    parser = command_parser("imp-test", "test")
    group = parser.add_argument_group("more")
    parser.add_argument("files", nargs="*")
    calib = parser.add_argument("--calib", type=Path)
    add_deprecated(parser, "--images", calib)
    group.add_argument("-p", "--precisions", nargs="+", choices=("fp16", "int8"))
    group.add_argument("--set", action="append")
    once = ["a", "b", "--calib", "day", "-p", "fp16", "int8", "--set", "x=1", "--set", "y=2", "-vv", "-q"]
    options = parser.parse_args(once)
    assert (options.files, options.calib, options.set) == (["a", "b"], Path("day"), ["x=1", "y=2"])
    assert capsys.readouterr().err == ""
    for repeated, flag in ((["--calib", "night"], "--calib"), (["--precisions", "fp16"], "--precisions")):
        options = parser.parse_args([*once, *repeated])
        told = f"warning: {flag} is given more than once; only the last counts\n"
        assert capsys.readouterr().err == told
    assert options.precisions == ["fp16"]


def test_json_rejects_what_is_not_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_json({"x": float("nan")})


def test_progress_off_a_terminal_is_rare_and_on_one_rewrites_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    progress = Progress("work", 100)
    for done in range(1, 100):
        now[0] += 0.3
        progress.update(done, "note")
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0] == "work: 34/100, 3.3/s, 0:20 left, note"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress("work")
    now[0] += 1
    progress.update(1)
    progress.close()
    assert capsys.readouterr().err == "\rwork: 1, 1.0/s\r" + " " * 14 + "\r"
    progress.update(2)
    now[0] += 1
    progress.update(2)
    set_up_logging()
    logging.getLogger("imp_trt.camera").warning("lost")
    first, _, rest = capsys.readouterr().err.rpartition("\r")
    assert (first.count("\r"), rest) == (2, "WARNING: lost\n"), "a record gets a line of its own"
    quiet = Progress("work", quiet=True)
    now[0] += 100
    quiet.update(5)
    monkeypatch.setenv("IMP_TRT_NO_PROGRESS", "1")
    Progress("work").update(5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["train", "eval", "export", "segment", "inspect", "bench", "doctor", "demo"])
def test_every_command_is_also_a_module(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [f"imp-{name}", "--version"])
    monkeypatch.delitem(sys.modules, f"imp_trt.cli.{name}", raising=False)
    with pytest.raises(SystemExit) as left:
        runpy.run_module(f"imp_trt.cli.{name}", run_name="__main__")
    assert left.value.code == 0
    assert capsys.readouterr().out.strip()
