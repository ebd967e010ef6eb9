"""The IMP operator in a network that knows nothing of imp_trt: a U-Net-like head that reads the canvas.

    python samples/operator_in_your_network.py

Any detector will do: the operator wants boxes in pixels, scores, labels and small masks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imp_trt.ops import instance_mask_projection

THINGS, CLASSES, STRIDE = 3, 5, 4


class TinyHead(nn.Module):
    """Features at stride 4 and the canvas -> class logits."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels + THINGS, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, CLASSES, 1)
        )

    def forward(self, features: Tensor, canvas: Tensor) -> Tensor:
        logits: Tensor = self.layers(torch.cat([features, canvas], dim=1))
        return logits


def main() -> float:
    torch.manual_seed(0)
    features = torch.rand(1, 16, 32, 64)
    # What your detector says: two instances in an image of 128 x 256 pixels.
    boxes = torch.tensor([[[20.0, 30, 100, 90], [120, 10, 230, 120]]])
    scores = torch.tensor([[0.9, 0.7]], requires_grad=True)
    labels = torch.tensor([[0, 2]])
    masks = torch.rand(1, 2, 28, 28, requires_grad=True)
    canvas = instance_mask_projection(boxes, scores, labels, masks, THINGS, (32, 64), 1 / STRIDE)
    logits = TinyHead()(features, canvas)
    loss = nn.functional.cross_entropy(logits, torch.randint(0, CLASSES, (1, 32, 64)))
    loss.backward()
    reached = float(masks.grad.abs().sum())
    print(f"canvas {list(canvas.shape)}, loss {loss.item():.3f}, gradient at the masks {reached:.5f}")
    return reached


if __name__ == "__main__":
    main()
