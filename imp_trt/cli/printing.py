# SPDX-License-Identifier: Apache-2.0
"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from imp_trt.errors import OutputError, printable

if TYPE_CHECKING:
    from imp_trt.preprocessing.letterbox import LetterboxTransform


@contextmanager
def written_to_stdout() -> Iterator[None]:
    """Context manager: OutputError if what is printed cannot be written, such as to a full disk."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # without this, Python reports it again on exit
        raise OutputError(
            "standard output cannot be written",
            got=error.strerror,
            fix="redirect it to another place, or free disk space",
        ) from error


def to_stderr(text: str) -> None:
    """Write to stderr; a full disk, a closed pipe or terminal does not end the command."""
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def say(text: str) -> None:
    """One line on stderr; see :func:`imp_trt.errors.printable`."""
    to_stderr(printable(text) + "\n")


def print_line(text: str) -> None:
    """One line on stdout; see :func:`imp_trt.errors.printable`. A line break in a name begins no line."""
    print_lines(printable(text))


def print_lines(text: str) -> None:
    """Lines on stdout, of which names must be printable already: line breaks are kept, nothing that moves."""
    with written_to_stdout():
        print("\n".join(printable(line) for line in text.split("\n")))


def say_padding(fit: LetterboxTransform) -> None:
    """Print a note on stderr if a large part of the network input is padding."""
    if fit.padding > 0.03:
        sizes = [f"{size[1]}x{size[0]}" for size in (fit.frame, fit.network)]
        say(
            f"note: {fit.padding:.0%} of the network input is padding (frames {sizes[0]}, input {sizes[1]}), "
            "which costs time and, after a short training, accuracy; use an input size with the aspect ratio "
            "of the frames"
        )


def print_json(data: object) -> None:
    """Print data as one JSON document on stdout."""
    with written_to_stdout():
        print(json.dumps(data, indent=2, allow_nan=False))
