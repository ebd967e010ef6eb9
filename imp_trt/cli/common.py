"""What the commands share: options, exit codes, logging, progress.

Exit codes: 0 ok, 1 internal, 2 usage, 3 accuracy or precision gate, 4 engine incompatible,
5 dependency or GPU missing, 6 latency gate, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

import imp_trt
from imp_trt.errors import DependencyMissing, ImpTrtError

if TYPE_CHECKING:
    from imp_trt.preprocessing.letterbox import LetterboxTransform

EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

EXIT_CODES_HELP = (
    "exit codes: 0 ok, 1 internal error, 2 usage or bad input, 3 accuracy or precision gate failed, "
    "4 artifact or engine unusable here, 5 dependency or GPU missing, 6 latency gate failed, "
    "130 interrupted (no partial file is left)"
)


def command_parser(prog: str, description: str, examples: str = "") -> argparse.ArgumentParser:
    """Parser with the options that every command has: --json, -q, -v, --version."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"{examples}\n\n{EXIT_CODES_HELP}".strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("common options")
    group.add_argument("--json", action="store_true", help="machine-readable result alone on stdout")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress, warnings only on stderr")
    group.add_argument("-v", "--verbose", action="count", default=0, help="more on stderr; -vv: tracebacks")
    group.add_argument("--version", action="version", version=f"imp-trt {imp_trt.__version__}")
    return parser


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Units of time on the command line, in seconds."""


def seconds(text: str, *, unit: str) -> float:
    """argparse type: a time such as 50ms, 3s, 90m or 2h, in seconds.

    Args:
        unit: one of UNITS, of a number without one.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|)", text.strip())
    value = float(match[1]) * UNITS[match[2] or unit] if match else 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a time such as 50ms, 3s, 90m or 2h")
    return value


def run_command(body: Callable[[], int | None], *, verbose: int = 0, quiet: bool = False) -> int:
    """Run body and turn what it raises into one line on stderr and an exit code.

    Args:
        body: the command; returns its exit code, or None for 0.
        verbose: 0 warnings and notices, 1 library messages too, 2 tracebacks too.
        quiet: warnings only.
    """
    set_up_logging(verbose, quiet)
    previous = _terminate_like_interrupt()
    try:
        code = body() or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has gone (`| head`). Python would complain again while closing stdout.
        sys.stdout = open(os.devnull, "w")
        return EXIT_INTERNAL
    except ImpTrtError as error:
        return _report(error, error.exit_code, verbose)
    except ImportError as error:
        return _report(_missing(error), DependencyMissing.exit_code, verbose)
    except MemoryError as error:
        return _report(ImpTrtError(f"out of memory {error}".strip()), EXIT_INTERNAL, verbose)
    except Exception as error:  # the last resort: nobody's mistake but ours
        text = f"internal error: {type(error).__name__}: {error} (-vv shows where; please report it)"
        return _report(ImpTrtError(" ".join(text.split())), EXIT_INTERNAL, verbose)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def say(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


def say_padding(fit: LetterboxTransform) -> None:
    """One line on stderr if much of the network's frame is padding."""
    if fit.padding > 0.03:
        sizes = [f"{size[1]}x{size[0]}" for size in (fit.frame, fit.network)]
        say(
            f"note: {fit.padding:.0%} of the network's frame is padding, with frames of {sizes[0]} and an "
            f"input of {sizes[1]}: it costs time, and after a short training accuracy too; an input of the "
            "frames' own shape has none"
        )


def print_json(data: Any) -> None:
    """data as one JSON document on stdout."""
    print(json.dumps(data, indent=2, allow_nan=False))


def set_up_logging(verbose: int = 0, quiet: bool = False) -> None:
    """Send the package's log records to stderr; silence the libraries underneath.

    OpenCV and FFmpeg print their own complaints about a bad file straight to stderr, beside the typed
    error that says the same with a remedy.
    """
    level = logging.DEBUG if verbose > 1 else logging.WARNING if quiet else logging.INFO
    logger = logging.getLogger("imp_trt")
    logger.setLevel(level)
    handler = _AboveProgress()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    if not verbose:
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class _AboveProgress(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10 takes none
    """Clears a progress line before a record is printed; the next update draws it again below."""

    def emit(self, record: logging.LogRecord) -> None:
        if Progress.shown is not None:
            Progress.shown.close()
        super().emit(record)


class Progress:
    """Progress on stderr: one line rewritten on a terminal, a line every ten seconds elsewhere.

    Args:
        label: what is being done.
        total: number of steps, or None if unknown.
        quiet: print nothing.
    """

    shown: ClassVar[Progress | None] = None
    """The one whose line stands on the terminal."""

    def __init__(self, label: str, total: int | None = None, *, quiet: bool = False) -> None:
        self._label = label
        self._total = total
        self._quiet = quiet or bool(os.environ.get("IMP_TRT_NO_PROGRESS"))
        self._terminal = sys.stderr.isatty()
        self._every_s = 0.1 if self._terminal else 10.0
        self._start = self._last = time.perf_counter()
        self._width = 0

    def update(self, done: int, note: str = "") -> None:
        """done steps are finished; note is appended."""
        now = time.perf_counter()
        if self._quiet or now - self._last < self._every_s:
            return
        self._last = now
        self._print(self._text(done, now, note))

    def close(self) -> None:
        """Clear the line, if there is one."""
        if self._terminal and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0
            Progress.shown = None

    def _text(self, done: int, now: float, note: str) -> str:
        seconds = max(now - self._start, 1e-9)
        rate = done / seconds
        count = f"{done}/{self._total}" if self._total else str(done)
        text = f"{self._label}: {count}, {rate:.1f}/s"
        if self._total and rate > 0:
            left = max(self._total - done, 0) / rate
            text += f", {left // 60:.0f}:{left % 60:02.0f} left"
        return f"{text}, {note}" if note else text

    def _print(self, text: str) -> None:
        if self._terminal:
            # Pad with blanks so that a shorter line leaves nothing of a longer one.
            sys.stderr.write("\r" + text.ljust(self._width))
            self._width = len(text)
            Progress.shown = self
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def stage_progress(command: str, quiet: bool) -> Callable[[str, int, int], None]:
    """A callback (stage, done, total) that shows one progress line per stage of a command."""
    stages: dict[str, Progress] = {}

    def show(stage: str, done: int, total: int) -> None:
        bar = stages.setdefault(stage, Progress(f"{command}: {stage}", total, quiet=quiet))
        bar.update(done)
        if done == total:
            bar.close()

    return show


def _report(error: ImpTrtError, code: int, verbose: int) -> int:
    if verbose > 1:
        traceback.print_exc()
    say("error: " + " ".join(str(error).split()))
    return code


def _missing(error: ImportError) -> DependencyMissing:
    name = (error.name or "").split(".")[0]
    extras = {
        "torch": "torch",
        "torchvision": "torch",
        "safetensors": "torch",
        "onnxruntime": "onnx",
        "onnx": "export",
        "onnxscript": "export",
        "matplotlib": "eval",
        "jinja2": "eval",
        "tqdm": "train",
    }
    if name in extras:
        fix = f"pip install 'imp-trt[{extras[name]}]'"
    elif isinstance(error, ModuleNotFoundError) and name == "cv2":
        fix = "pip install opencv-python"
    elif "libGL" in str(error):
        # The usual failure on servers and in containers without a desktop.
        fix = "install the system's libGL (Debian: libgl1), or pip install opencv-python-headless"
    else:
        fix = "imp-doctor lists what is installed and what is missing"
    return DependencyMissing(f"cannot import {name or 'a module'}", got=error, fix=fix)


def _terminate_like_interrupt() -> Any:
    """Make SIGTERM unwind the stack like Ctrl-C, so that temporary files are removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        return signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        return None
