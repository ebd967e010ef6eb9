# SPDX-License-Identifier: Apache-2.0
"""Curves in TensorBoard's format, where its package is installed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
"""Folder of the event files in that of the run; each stage has its own in it."""

_log = logging.getLogger("imp_trt.train")


def is_installed() -> bool:
    """Whether TensorBoard's package can be found; it is not imported."""
    return find_spec("tensorboard") is not None


class TensorBoardCurves:
    """Scalars of one stage as event files.

    Without the package, or if it cannot be loaded or a file not written, a warning is logged, and no more is
    written.

    Args:
        folder: of the run.
        name: of the stage's files.
        first: step at which the run starts or resumes; later events of an earlier process or run are
            superseded.
    """

    def __init__(self, folder: Path, name: str, first: int) -> None:
        self._writer: SummaryWriter | None = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / FOLDER / name), purge_step=first + 1)
        except (ImportError, OSError, AttributeError) as error:
            _log.warning("no curves in TensorBoard's format: %s", error)

    def add(self, step: int, values: Mapping[str, object], group: str) -> None:
        """Add the numbers among the values at a step, as ``group/name``."""
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                if isinstance(value, int | float) and name != "step":
                    self._writer.add_scalar(f"{group}/{name}", value, step)
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is left; idempotent."""
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        _log.warning("no more curves in TensorBoard's format: %s", error)
        self._writer = None
