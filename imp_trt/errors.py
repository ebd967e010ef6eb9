"""Typed errors: one class per remedy, each with the exit code the commands use.

A message has three parts where they apply: what was expected, what was got, and how to mend it.
"""

from __future__ import annotations


class ImpTrtError(Exception):
    """Base of every error that imp_trt raises on purpose.

    Args:
        what: one sentence naming the thing that failed.
        expected: what would have been accepted.
        got: what was found instead.
        fix: what the reader can do about it.
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
        parts = [self.what]
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.got is not None:
            parts.append(f"got {self.got}")
        text = ": ".join([parts[0], ", ".join(parts[1:])]) if len(parts) > 1 else parts[0]
        return f"{text}. Fix: {self.fix}" if self.fix else text

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments would be lost by the default pickling of exceptions,
        # and errors do cross process borders (engine builds run in a child process).
        return (_rebuild, (type(self), self.what, self.expected, self.got, self.fix))


def _rebuild(
    cls: type[ImpTrtError], what: str, expected: object, got: object, fix: str | None
) -> ImpTrtError:
    return cls(what, expected=expected, got=got, fix=fix)


class UsageError(ImpTrtError):
    """An option or a combination of options makes no sense: call again, corrected."""

    exit_code = 2


class InvalidInput(ImpTrtError):
    """An array, frame or argument has the wrong shape, dtype or values: pass another."""

    exit_code = 2


class SourceError(ImpTrtError):
    """An image, folder, video or stream cannot be opened or read: name another source."""

    exit_code = 2


class OutputError(ImpTrtError):
    """A result cannot be written: choose another path or make room."""

    exit_code = 2


class DatasetError(ImpTrtError):
    """A data set is missing, incomplete or malformed: complete the files named."""

    exit_code = 2


class CheckpointError(ImpTrtError):
    """Trained weights are missing, truncated, or of another architecture: get the right file."""

    exit_code = 2


class ExportError(ImpTrtError):
    """A model cannot be expressed in the exported graph: change the model or the options."""

    exit_code = 1


class VerificationError(ImpTrtError):
    """An accuracy or precision gate failed: the artifact would not do what the model does."""

    exit_code = 3


class PrecisionError(VerificationError):
    """A built engine computes in another precision than was asked for: build it another way."""


class BuildError(ImpTrtError):
    """TensorRT refuses or fails to build a graph: change the options or the TensorRT version."""

    exit_code = 1


class ArtifactError(ImpTrtError):
    """An artifact's file or manifest is missing, corrupt, or the two disagree: export again."""

    exit_code = 4


class EngineIncompatible(ImpTrtError):
    """An engine was built for another TensorRT, GPU or platform: build it for this one."""

    exit_code = 4


class DependencyMissing(ImpTrtError):
    """A package, library or GPU that this path needs is not here: install it."""

    exit_code = 5


class DeviceError(ImpTrtError):
    """A CUDA call failed on a GPU that is there: free memory, mend the driver, or report it."""

    exit_code = 1


class LatencyError(ImpTrtError):
    """A latency gate failed."""

    exit_code = 6
