"""The update of the weights: parameter groups, loss scaling, clipping."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from imp_trt.errors import ImpTrtError
from imp_trt.models.network import ImpNetwork
from imp_trt.models.semantic import SemanticHead
from imp_trt.train.recipes import Recipe


class TrainingDiverged(ImpTrtError):
    """A loss or a gradient is no longer finite: lower the learning rate or the clip norm."""


class Optimizer:
    """AdamW or SGD by the recipe, with gradient clipping, and loss scaling for float16.

    Args:
        network: parameters that need no gradient are left out.
        recipe: kind, weight decay, rates of biases and of the canvas, clip norm, precision.
        device: "cpu", "cuda" or "cuda:<index>".
    """

    def __init__(self, network: ImpNetwork, recipe: Recipe, device: str) -> None:
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._clip = recipe.clip
        self._canvas_rate = recipe.canvas_rate
        self._canvas_kernel: Tensor | None = None
        if recipe.canvas_rate != 1.0 and isinstance(network.semantic, SemanticHead):
            self._canvas_kernel = network.semantic.canvas_kernel.detach()  # shares the weights' memory
        groups = parameter_groups(network, recipe)
        rate = recipe.stage_two.peak
        self._update: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            self._update = torch.optim.SGD(groups, lr=rate, momentum=0.9)
        else:
            self._update = torch.optim.AdamW(groups, lr=rate, fused=True)
        # float16 gradients below 6e-8 would vanish; bfloat16 has the range of float32. PyTorch's first
        # scale of 65536 overflows here and would cost the first steps.
        scaled = recipe.precision == "float16"
        self._scaler = torch.amp.GradScaler(device.split(":")[0], init_scale=1024.0, enabled=scaled)

    def step(self, total: Tensor, rate: float) -> None:
        """Differentiate the loss and change the weights.

        Args:
            total: [] the loss.
            rate: learning rate of this step; a group's own factor comes on top.

        Raises:
            TrainingDiverged: a gradient is not finite; the weights are as before. With float16 such a
                step is left out and the loss scaled down instead.
        """
        for group in self._update.param_groups:
            group["lr"] = rate * group["factor"]
        self._update.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._update)
        # A norm without bound is asked for where nothing is clipped: the factor is 1 to the bit.
        norm = nn.utils.clip_grad_norm_(self._parameters, math.inf if self._clip is None else self._clip)
        if not self._scaler.is_enabled() and not norm.isfinite():
            raise TrainingDiverged(
                "training",
                expected="finite gradients",
                got=f"a norm of {norm.item()}",
                fix="lower the learning rate",
            )
        before = None if self._canvas_kernel is None else self._canvas_kernel.clone()
        self._scaler.step(self._update)
        self._scaler.update()
        if self._canvas_kernel is not None and before is not None:
            # Rates belong to whole parameters; the step of a part is made longer instead.
            self._canvas_kernel.lerp_(before, 1.0 - self._canvas_rate)

    def state_dict(self) -> dict[str, Any]:
        """Moments and the loss scale, for :meth:`load_state_dict`."""
        return {"update": self._update.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` gave."""
        self._update.load_state_dict(state["update"])
        self._scaler.load_state_dict(state["scaler"])


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Matrices with weight decay; vectors without; biases at a rate of their own if the recipe says so."""
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    matrices = [p for _, p in trained if p.ndim >= 2]
    vectors = [(name, p) for name, p in trained if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay, "factor": 1.0}]
    if recipe.bias_rate == 1.0:
        groups.append({"params": [p for _, p in vectors], "weight_decay": 0.0, "factor": 1.0})
        return groups
    norms = [p for name, p in vectors if not name.endswith("bias")]
    biases = [p for name, p in vectors if name.endswith("bias")]
    groups.append({"params": norms, "weight_decay": 0.0, "factor": 1.0})
    groups.append({"params": biases, "weight_decay": 0.0, "factor": recipe.bias_rate})
    return [group for group in groups if group["params"]]
