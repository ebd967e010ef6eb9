# SPDX-License-Identifier: Apache-2.0
"""Shared code of the commands: options, exit codes, logging, progress.

Exit codes: 0 ok, 1 internal, 2 usage, 3 accuracy or precision gate, 4 engine incompatible,
5 dependency or GPU missing, 6 latency gate, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import logging
import math
import os
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from importlib import metadata
from typing import Any, ClassVar, NoReturn

import imp_trt
from imp_trt.cli.interrupts import EXIT_INTERRUPTED, ends_by_second_signal
from imp_trt.cli.printing import say, to_stderr, written_to_stdout
from imp_trt.cli.repeated import StoreLast
from imp_trt.data.memory import MEMORY_FIX
from imp_trt.errors import DependencyMissing, ImpTrtError, UsageError, printable

# PyTorch with OpenCV and ONNX Runtime needs about 3 GB, most of it never touched.
_ADDRESS_SPACE = 4 << 30

EXIT_INTERNAL = 1
EXIT_USAGE = 2

EXIT_CODES = {
    0: "ok",
    1: "export, engine build or CUDA failure, or internal error",
    2: "usage or bad input",
    3: "accuracy or precision gate failed, no file is written",
    4: "artifact or engine not usable on this machine",
    5: "dependency or GPU missing",
    6: "latency gate failed",
    130: "interrupted; finished frames and training states are kept",
}
_EXIT_CODES_HELP = "\n  ".join(["exit codes:", *(f"{code:<5}{text}" for code, text in EXIT_CODES.items())])


def command_parser(
    prog: str, description: str, examples: str = "", *, may_be_empty: Collection[str] = ()
) -> argparse.ArgumentParser:
    """Create a parser with the options that all commands have: --json, -q, -v, --version.

    Args:
        may_be_empty: options for which an empty text has a meaning.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=f"{examples}\n\n{_EXIT_CODES_HELP}".strip(),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.may_be_empty = may_be_empty
    for name in (None, "store"):
        parser.register("action", name, StoreLast)
    group = parser.add_argument_group("common options")
    group.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress; only warnings on stderr")
    group.add_argument(
        "-v", "--verbose", action="count", default=0, help="more log messages on stderr; -vv: tracebacks"
    )
    group.add_argument("--version", action="version", version=f"imp-trt {imp_trt.__version__}")
    return parser


class _Parser(argparse.ArgumentParser):
    """Rejects empty arguments: those of a variable without a value name the current folder as a path.

    Its errors quote arguments, which may be names of files from elsewhere: control characters are replaced.

    Attributes:
        may_be_empty: options for which an empty text has a meaning.
    """

    may_be_empty: Collection[str] = ()

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        given = sys.argv[1:] if args is None else list(args)
        for before, argument in zip(["", *given], given, strict=False):
            if not argument or re.fullmatch(r"--[a-z-]+=", argument):
                option = argument.rstrip("=") or (before if before.startswith("-") else "")
                if option in self.may_be_empty:
                    continue
                what = f"argument {option}: it" if option else "an argument"
                self.error(f"{what} is empty; check the variables in the command")
        return super().parse_known_args(given, namespace)


def help_text(action: argparse.Action) -> str:
    """Help of an option, with its default if the text does not have it."""
    text = str(action.help or "")
    takes_value = action.nargs != 0 and action.option_strings
    if takes_value and "default" not in text and action.default not in (None, argparse.SUPPRESS, (), []):
        text += f" (default: {action.default})"
    return text


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows defaults."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return help_text(action)


def add_deprecated(container: argparse._ActionsContainer, flag: str, replacement: argparse.Action) -> None:
    """Accept an old flag for one more version: it acts as its replacement and warns on stderr.

    Args:
        container: the parser or group to add the flag to; it is not listed in the help.
        flag: the old flag.
        replacement: the action that add_argument returned for the new flag.
    """

    class Deprecated(argparse.Action):
        def __call__(
            self,
            parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            values: object,
            option_string: str | None = None,
        ) -> None:
            say(f"warning: {flag} is deprecated, use {replacement.option_strings[-1]}")
            replacement(parser, namespace, values, option_string)  # type: ignore[arg-type]

    container.add_argument(
        flag,
        action=Deprecated,
        dest=replacement.dest,
        nargs=replacement.nargs,
        type=replacement.type or str,
        choices=replacement.choices,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def threads(text: str) -> int:
    """argparse type: a number of threads, 1 to MAX_THREADS."""
    from imp_trt.backends.opening import MAX_THREADS

    value = positive(text)
    if value > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text} is more than {MAX_THREADS} threads")
    return value


UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Units of time on the command line, in seconds."""


def seconds(text: str, *, unit: str) -> float:
    """argparse type: a time such as 50ms, 3s, 90m or 2h, in seconds.

    Args:
        unit: default unit, one of UNITS.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|)", text.strip())
    value = float(match[1]) * UNITS[match[2] or unit] if match else 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a time such as 50ms, 3s, 90m or 2h")
    return value


def run_command(body: Callable[[], int | None], *, verbose: int = 0, quiet: bool = False) -> int:
    """Run body and convert exceptions to one line on stderr and an exit code.

    The second SIGINT or SIGTERM ends the process even if body is in a call that does not return.

    Args:
        body: the command; returns its exit code, or None for 0.
        verbose: 0 warnings and notices, 1 library messages too, 2 tracebacks too.
        quiet: warnings only.
    """
    _check_streams()
    set_up_logging(verbose, quiet)
    try:
        with ends_by_second_signal():
            code = body() or 0
            with written_to_stdout():
                sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has exited (`| head`). Without this, Python reports it again on exit.
        sys.stdout = open(os.devnull, "w")
        return EXIT_INTERNAL
    except ImpTrtError as error:
        return _report(error, error.exit_code, verbose)
    except ImportError as error:
        return _report(_missing(error), DependencyMissing.exit_code, verbose)
    except OSError as error:
        failed = _failed(error)
        return _report(failed, failed.exit_code, verbose)
    except Exception as error:
        if isinstance(error, MemoryError) or any(text in str(error).lower() for text in _EXHAUSTED):
            short = ImpTrtError("out of memory", got=str(error) or None, fix=f"{MEMORY_FIX} (ulimit -v, -u)")
            return _report(short, EXIT_INTERNAL, verbose)
        # A bug in this package.
        text = f"internal error: {type(error).__name__}: {error} (-vv shows where; please report it)"
        return _report(ImpTrtError(" ".join(text.split())), EXIT_INTERNAL, verbose)


def _check_streams() -> None:
    """Make stdout and stderr usable: closed ones go nowhere, and names of any characters can be printed."""
    while True:
        # The next file that is opened would get the number of a closed stream, and what is printed to it.
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale such as C has 128 characters


def set_up_logging(verbose: int = 0, quiet: bool = False) -> None:
    """Send the package's log records to stderr and silence OpenCV and FFmpeg.

    Both print messages about invalid files to stderr, in addition to this package's error, which also
    contains a fix.
    """
    level = logging.DEBUG if verbose > 1 else logging.WARNING if quiet else logging.INFO
    logger = logging.getLogger("imp_trt")
    logger.setLevel(level)
    handler = _AboveProgress()
    handler.setFormatter(_Printable("%(levelname)s: %(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    if not verbose:
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class _Printable(logging.Formatter):
    """Records quote names and messages from outside; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, *args: Any) -> str:
        return "\n".join(map(printable, super().formatException(*args).split("\n")))


class _AboveProgress(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10 takes none
    """Clears the progress line before a record is printed; the next update prints it again below."""

    def emit(self, record: logging.LogRecord) -> None:
        if Progress.shown is not None:
            Progress.shown.close()
        super().emit(record)


class Progress:
    """Progress on stderr: one line that is updated on a terminal, otherwise a line every ten seconds.

    Args:
        label: name of the task.
        total: number of steps, or None if unknown.
        quiet: print nothing.
    """

    shown: ClassVar[Progress | None] = None
    """The instance whose line is displayed on the terminal."""

    def __init__(self, label: str, total: int | None = None, *, quiet: bool = False) -> None:
        self._label = label
        self._total = total
        self._quiet = quiet or bool(os.environ.get("IMP_TRT_NO_PROGRESS"))
        self._terminal = sys.stderr.isatty()
        self._every_s = 0.1 if self._terminal else 10.0
        self._start = self._last = time.perf_counter()
        self._width = 0

    def update(self, done: int, note: str = "") -> None:
        """Display the number of finished steps, followed by note."""
        now = time.perf_counter()
        if self._quiet or now - self._last < self._every_s:
            return
        self._last = now
        self._print(self._text(done, now, note))

    def close(self) -> None:
        """Clear the progress line."""
        if self._terminal and self._width:
            to_stderr("\r" + " " * self._width + "\r")
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
        text = printable(text)
        if self._terminal:
            # Padded with spaces to overwrite a longer previous line.
            to_stderr("\r" + text.ljust(self._width))
            self._width = len(text)
            Progress.shown = self
        else:
            to_stderr(text + "\n")


def stage_progress(command: str, quiet: bool) -> Callable[[str, int, int], None]:
    """Return a callback (stage, done, total) that shows one progress line per stage of a command."""
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
    say(f"error: {' '.join(str(error).split())} (see {error.reference})")
    return code


def _failed(error: OSError) -> ImpTrtError:
    """The error for a call of the system that fails where nothing expects it to, such as for long names."""
    reason = error.strerror or f"{type(error).__name__}: {error}"
    if not isinstance(error.filename, str | bytes):
        return ImpTrtError("a call of the system failed", got=reason, fix="-vv shows where")
    name = os.fsdecode(error.filename)
    return UsageError(
        f"path {name[:200]!r}",
        expected="one that can be used",
        got=reason,
        fix="correct it, or the permissions of the file",
    )


_EXHAUSTED = ("can't start new thread", "can't allocate memory", "bad_alloc", "insufficient memory")
"""What libraries call it: PyTorch and OpenCV raise errors of their own, some programs limit threads."""


_NO_MEMORY = (
    "cannot allocate memory",
    "failed to map segment",
    "cannot enable executable stack",
    "out of memory",
)


def _missing(error: ImportError) -> DependencyMissing:
    name = (error.name or "").split(".")[0]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    # With too little address space PyTorch fails in its own ways: a library that cannot be mapped, or
    # one that is half loaded.
    small = limit != resource.RLIM_INFINITY and limit < _ADDRESS_SPACE
    if small or any(text in str(error).lower() for text in _NO_MEMORY):
        return DependencyMissing(
            f"cannot load {name or 'a library'}",
            expected=f"at least {_ADDRESS_SPACE >> 30} GB of address space" if small else "enough memory",
            got=f"a limit of {limit >> 20:,} MB" if small else error,
            fix="raise the limit (ulimit -v unlimited), or free memory",
        )
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
    absent = isinstance(error, ModuleNotFoundError)
    if absent and name in extras:
        fix = f"pip install 'imp-trt[{extras[name]}]'"
    elif absent and name == "cv2":
        fix = "pip install opencv-python"
    elif blamed := _blamed(error, {*extras, "cv2", "numpy"}):
        fix = _broken(blamed, error)
    else:
        fix = "imp-doctor lists what is installed and what is missing"
    return DependencyMissing(f"cannot import {name or 'a module'}", got=error, fix=fix)


def _blamed(error: ImportError, known: set[str]) -> str:
    """The first package on the way to an error that may not name it; empty if it is none of known."""
    trace = error.__traceback__
    while trace is not None:
        packages = set(trace.tb_frame.f_code.co_filename.split("/")) & known
        if packages - {""}:
            return packages.pop()
        trace = trace.tb_next
    return error.name.split(".")[0] if error.name and error.name.split(".")[0] in known else ""


def _broken(module: str, error: ImportError) -> str:
    from imp_trt.cli.import_fixes import OPENCV, fix_for

    versions: dict[str, str | None] = {}
    for name in OPENCV:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    failure = f"{type(error).__name__}: {error}"
    return f"{fix_for(module, failure, versions) or 'reinstall it'}; imp-doctor shows more"
