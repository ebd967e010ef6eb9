# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of a network's weights and statistics (Polyak averaging)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

WARMUP = 10
"""The decay of step t is at most (1 + t) / (WARMUP + t), so that the initial weights are soon forgotten."""


class WeightAverage:
    """The average of the floating-point values of a state dict; other values are copied.

    Args:
        network: its current values are the initial average.
        decay: share of the old average in the new one, 0 to below 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self._values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Include the network's values after an optimizer step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (WARMUP + self._steps))
        for name, value in network.state_dict().items():
            average = self._values[name]
            if value.is_floating_point():
                average.lerp_(value.detach(), 1.0 - decay)
            else:
                average.copy_(value)

    def copy_to(self, network: nn.Module) -> None:
        """Replace the network's values by their average."""
        network.load_state_dict(self._values)

    def state_dict(self) -> dict[str, Tensor]:
        """The average and the number of steps, for :meth:`load_state_dict`."""
        return {**self._values, _STEPS: torch.tensor(self._steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the result of :meth:`state_dict`."""
        self._steps = int(state[_STEPS])
        for name, average in self._values.items():
            average.copy_(state[name])


_STEPS = "ema steps"
