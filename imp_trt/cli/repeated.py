# SPDX-License-Identifier: Apache-2.0
"""Options with one value that a command line has twice."""

from __future__ import annotations

import argparse

from imp_trt.cli.printing import say


class StoreLast(argparse.Action):
    """Store a value as argparse does, the last one, and say so if an option has several.

    Some people expect the values to add up, as in ``--calib day/ --calib night/``.
    """

    _given_in: argparse.Namespace | None = None

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if self._given_in is namespace and option_string is not None:
            say(f"warning: {option_string} is given more than once; only the last counts")
        self._given_in = namespace
        setattr(namespace, self.dest, values)
