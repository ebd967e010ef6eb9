# SPDX-License-Identifier: Apache-2.0
"""The optimizer step: parameter groups, gradient scaling, gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from imp_trt.errors import ImpTrtError
from imp_trt.models.network import ImpNetwork
from imp_trt.models.semantic import SemanticHead
from imp_trt.train.config import Recipe

_MIN_SCALE = 2.0**-24
"""Gradients of 1e12 would be finite in float16 with this scale."""


class TrainingDiverged(ImpTrtError):
    """A loss or a gradient is no longer finite: lower the learning rate or the clip norm."""


class Optimizer:
    """AdamW or SGD as the recipe says, with gradient clipping, and gradient scaling for float16.

    Args:
        network: its parameters that require gradients are optimized.
        recipe: optimizer, weight decay, learning rate multipliers, clip norm, precision.
        device: "cpu", "cuda" or "cuda:<index>".
    """

    def __init__(self, network: ImpNetwork, recipe: Recipe, device: str) -> None:
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._clip = recipe.clip
        self._canvas_lr_mult = recipe.canvas_lr_mult
        self._canvas_kernel: Tensor | None = None
        if recipe.canvas_lr_mult != 1.0 and isinstance(network.semantic, SemanticHead):
            self._canvas_kernel = network.semantic.canvas_kernel.detach()  # shares the weights' memory
        groups = parameter_groups(network, recipe)
        lr = recipe.stage_two.lr
        self._optimizer: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            self._optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
        else:
            self._optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
        # float16 gradients below 6e-8 underflow; bfloat16 has the range of float32. PyTorch's initial scale
        # of 65536 overflows with these losses and would skip the first steps.
        scaled = recipe.precision == "float16"
        self._scaler = torch.amp.GradScaler(device.split(":")[0], init_scale=1024.0, enabled=scaled)

    def step(self, loss: Tensor, lr: float) -> None:
        """Backward pass and weight update.

        Args:
            loss: [] sum of all losses.
            lr: learning rate of this step; each parameter group multiplies it by its own factor.

        Raises:
            TrainingDiverged: a gradient is not finite; the weights are unchanged. With float16 the step is
                skipped instead and the scale reduced, until that is too small to be the reason.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        # Without clipping the maximum norm is infinite: the factor is then exactly 1.
        norm = nn.utils.clip_grad_norm_(self._parameters, math.inf if self._clip is None else self._clip)
        if not self._scaler.is_enabled() and not norm.isfinite():
            raise TrainingDiverged(
                "training",
                expected="finite gradients",
                got=f"a norm of {norm.item()}",
                fix="lower the learning rate",
            )
        previous = None if self._canvas_kernel is None else self._canvas_kernel.clone()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._scaler.get_scale() < _MIN_SCALE:
            raise TrainingDiverged(
                "training",
                expected="finite gradients",
                got=f"none in many steps, although the losses are scaled by {self._scaler.get_scale():.1g}",
                fix="lower the learning rate",
            )
        if self._canvas_kernel is not None and previous is not None:
            # Parameter groups hold whole parameters; the update of a part of one is scaled afterwards.
            self._canvas_kernel.lerp_(previous, 1.0 - self._canvas_lr_mult)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Optimizer state and gradient scale, for :meth:`load_state_dict`."""
        return {"update": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, dict[str, Any]]) -> None:
        """Restore the result of :meth:`state_dict`."""
        self._optimizer.load_state_dict(state["update"])
        self._scaler.load_state_dict(state["scaler"])


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups: matrices with weight decay, vectors without, biases with their own lr multiplier.

    The backbone (without FPN) has groups of its own if it has its own lr multiplier. The key "factor"
    multiplies the learning rate; saved training states contain it.
    """
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    if recipe.backbone_lr_mult == 1.0:
        return _groups(trained, recipe, 1.0)
    body = [(name, p) for name, p in trained if name.startswith("backbone.body.")]
    rest = [(name, p) for name, p in trained if not name.startswith("backbone.body.")]
    groups = _groups(rest, recipe, 1.0) + _groups(body, recipe, recipe.backbone_lr_mult)
    return [group for group in groups if group["params"]]


def _groups(trained: list[tuple[str, nn.Parameter]], recipe: Recipe, factor: float) -> list[dict[str, Any]]:
    matrices = [p for _, p in trained if p.ndim >= 2]
    vectors = [(name, p) for name, p in trained if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay, "factor": factor}]
    if recipe.bias_lr_mult == 1.0:
        groups.append({"params": [p for _, p in vectors], "weight_decay": 0.0, "factor": factor})
        return groups
    norms = [p for name, p in vectors if not name.endswith("bias")]
    biases = [p for name, p in vectors if name.endswith("bias")]
    groups.append({"params": norms, "weight_decay": 0.0, "factor": factor})
    groups.append({"params": biases, "weight_decay": 0.0, "factor": factor * recipe.bias_lr_mult})
    return [group for group in groups if group["params"]]
