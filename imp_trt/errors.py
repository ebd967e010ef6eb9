# SPDX-License-Identifier: Apache-2.0
"""Exceptions: one class for each kind of fix, with the exit code of the commands.

A message has up to three parts: the expected value, the actual value, and how to fix it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_MAX_PART = 1000
_TROUBLESHOOTING = "docs/troubleshooting.md"


def printable(text: object) -> str:
    """Text from outside (names, addresses, messages of libraries) as one line for a terminal, log or drawing.

    White space becomes a space, and every other character that is not printable a question mark: escape
    sequences move the cursor or rename the window, marks of direction reverse what is displayed, and a line
    break starts a line that looks like another message. Data files keep the exact text; HTML escapes it.
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in str(text))


def suggestion(name: object, choices: Iterable[str]) -> str | None:
    """A fix that names the choice that was probably meant, or None."""
    import difflib  # only for messages

    close = difflib.get_close_matches(str(name), list(choices), n=1)
    return f"use {close[0]!r}" if close else None


def _short(part: object) -> str:
    try:
        text = str(part)
    except Exception as error:  # an object from outside, or an integer of more than 4,300 digits
        text = f"{type(part).__name__} ({type(error).__name__})"
    return text if len(text) <= _MAX_PART else f"{text[: _MAX_PART - 3]}..."


class ImpTrtError(Exception):
    """Base class of the errors that imp_trt raises.

    Args:
        what: what failed, in one sentence.
        expected: the accepted values.
        got: the actual value.
        fix: how to fix it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        expected: object | None = None,
        got: object | None = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.expected = expected
        self.got = got
        self.fix = fix
        super().__init__(self._message())

    def _message(self) -> str:
        parts = [_short(self.what)]
        if self.expected is not None:
            parts.append(f"expected {_short(self.expected)}")
        if self.got is not None:
            parts.append(f"got {_short(self.got)}")
        text = ": ".join([parts[0], ", ".join(parts[1:])]) if len(parts) > 1 else parts[0]
        # The attributes keep what came from outside as it is; the message is printed and logged.
        return printable(f"{text}. Fix: {self.fix}" if self.fix else text)

    @property
    def reference(self) -> str:
        """The paragraph of the documentation on errors of this kind, such as
        ``docs/troubleshooting.md#artifact-error``.
        """
        name = next(cls.__name__ for cls in type(self).__mro__ if cls.__module__ == __name__)
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
        return f"{_TROUBLESHOOTING}#{words}"

    def __reduce__(self) -> tuple[object, ...]:
        # By default, exceptions lose keyword-only arguments when they are pickled. Errors are sent between
        # processes: engines are built in a child process.
        return (_rebuild, (type(self), self.what, self.expected, self.got, self.fix))


def _rebuild(
    cls: type[ImpTrtError], what: str, expected: object, got: object, fix: str | None
) -> ImpTrtError:
    return cls(what, expected=expected, got=got, fix=fix)


class UsageError(ImpTrtError):
    """An option or a combination of options is invalid: correct it."""

    exit_code = 2


class InvalidInput(ImpTrtError):
    """An array, frame or argument has an invalid shape, dtype or value: pass another one."""

    exit_code = 2


class SourceError(ImpTrtError):
    """An image, folder, video or stream cannot be opened or read: choose another source."""

    exit_code = 2


class OutputError(ImpTrtError):
    """A result cannot be written: choose another path or free disk space."""

    exit_code = 2


class DatasetError(ImpTrtError):
    """A dataset is missing, incomplete or malformed: complete the named files."""

    exit_code = 2


class CheckpointError(ImpTrtError):
    """A checkpoint is missing, damaged, or of another architecture: use the right file."""

    exit_code = 2


class ExportError(ImpTrtError):
    """A model cannot be exported: change the model or the options."""

    exit_code = 1


class VerificationError(ImpTrtError):
    """An accuracy or precision gate failed: the artifact's results would differ from the model's."""

    exit_code = 3


class PrecisionError(VerificationError):
    """A built engine has another precision than requested: build it another way."""


class BuildError(ImpTrtError):
    """TensorRT cannot build a graph: change the options or the TensorRT version."""

    exit_code = 1


class ArtifactError(ImpTrtError):
    """An artifact's file or manifest is missing or damaged, or they do not match: export again."""

    exit_code = 4


class EngineIncompatible(ImpTrtError):
    """An engine was built for another TensorRT, GPU or platform: build it on this platform."""

    exit_code = 4


class DependencyMissing(ImpTrtError):
    """A required package, library or GPU is missing: install it."""

    exit_code = 5


class DeviceError(ImpTrtError):
    """A CUDA call failed: free memory, fix the driver, or report it."""

    exit_code = 1


class LatencyError(ImpTrtError):
    """A latency gate failed."""

    exit_code = 6
