# SPDX-License-Identifier: Apache-2.0
"""The layers of the backbones."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

from imp_trt.models.backbone import norm_layer
from imp_trt.models.network import ImpNetwork
from tests.support.networks import small_config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_frozen_norms_answer_in_the_type_they_are_asked_in(dtype):
    # torchvision's answers float32 under autocast, and all that follows in a backbone would be float32 too.
    torch.manual_seed(0)
    state = {"weight": torch.rand(4), "bias": torch.rand(4)}
    state |= {"running_mean": torch.rand(4), "running_var": torch.rand(4)}
    norm, wanted = norm_layer("frozen_batch")(4), FrozenBatchNorm2d(4)
    norm.load_state_dict(state)
    wanted.load_state_dict(state)
    x = torch.randn(2, 4, 3, 5).to(dtype)
    assert norm(x).dtype == dtype
    assert torch.equal(norm(x), wanted(x).to(dtype))


def test_a_backbone_with_frozen_norms_stays_in_the_type_of_autocast():
    network = ImpNetwork(small_config(backbone="resnet18", norm="frozen_batch"))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert {x.dtype for x in network.backbone(torch.rand(1, 3, 64, 96)).values()} == {torch.bfloat16}
