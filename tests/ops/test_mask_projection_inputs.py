# SPDX-License-Identifier: Apache-2.0
"""What instance mask projection rejects, and the words it uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from imp_trt.errors import InvalidInput
from imp_trt.ops import instance_mask_projection, instance_mask_projection_numpy, paste_masks
from tests.ops.mask_projection_cases import ordinary

OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"num_classes": 0}, "num_classes: expected an integer >= 1, got 0"),
    ({"num_classes": 2.0}, "num_classes"),
    ({"num_classes": True}, "num_classes"),
    ({"canvas_size": (0, 5)}, "canvas_size: expected .*from 1 to 65536"),
    ({"canvas_size": (5, 65537)}, "canvas_size"),
    ({"canvas_size": (5,)}, "canvas_size"),
    ({"canvas_size": 5}, "canvas_size"),
    ({"canvas_size": (5.0, 5.0)}, "canvas_size"),
    ({"spatial_scale": 0.0}, "spatial_scale"),
    ({"spatial_scale": float("nan")}, "spatial_scale"),
    ({"spatial_scale": "1"}, "spatial_scale"),
    ({"sampling": "linear"}, "sampling: expected bilinear or nearest or rect, got 'linear'"),
]


def arrays() -> dict[str, Any]:
    return dict(ordinary(0, batch=2, count=3, cells=4)._asdict())


def by_numpy(**change: Any) -> Any:
    arguments = {**arrays(), "num_classes": 3, "canvas_size": (6, 7), **change}
    return instance_mask_projection_numpy(**arguments)


def by_torch(**change: Any) -> Any:
    arguments = {**arrays(), "num_classes": 3, "canvas_size": (6, 7), **change}
    tensors = {k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    return instance_mask_projection(**tensors)


FORMS = pytest.mark.parametrize("form", [by_numpy, by_torch])


@FORMS
@pytest.mark.parametrize(("change", "message"), OPTIONS)
def test_options(form: Callable[..., Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        form(**change)


@FORMS
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("masks", (2, 3, 4), r"masks: expected shape \[B, N, P, P\] with P >= 1, got \[2, 3, 4\]"),
        ("masks", (2, 3, 4, 5), "masks"),
        ("masks", (2, 3, 0, 0), "masks"),
        ("boxes", (2, 3, 5), r"boxes: expected shape \[2, 3, 4\] to match the masks, got \[2, 3, 5\]"),
        ("boxes", (3, 4), "boxes"),
        ("scores", (2, 4), r"scores: expected shape \[2, 3\]"),
        ("labels", (3,), r"labels: expected shape \[2, 3\]"),
    ],
)
def test_shapes(form: Callable[..., Any], name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        form(**{name: np.zeros(shape, np.int64 if name == "labels" else np.float32)})


@FORMS
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("masks", np.uint8),
        ("boxes", np.int64),
        ("scores", np.int32),
        ("labels", np.float32),
        ("labels", bool),
    ],
)
def test_dtypes(form: Callable[..., Any], name: str, dtype: type) -> None:
    with pytest.raises(InvalidInput, match=f"{name}: expected (floating point|an integer dtype)"):
        form(**{name: arrays()[name].astype(dtype)})


@FORMS
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64])
def test_any_integer_labels(form: Callable[..., Any], dtype: type) -> None:
    expected = np.asarray(form())
    np.testing.assert_array_equal(np.asarray(form(labels=arrays()["labels"].astype(dtype))), expected)


def test_tensors_on_two_devices() -> None:
    with pytest.raises(InvalidInput, match="scores: expected on cpu as the masks, got meta"):
        by_torch(scores=torch.zeros(2, 3, device="meta"))


def test_the_operator_itself_rejects_an_unknown_rule() -> None:
    tensors = [torch.as_tensor(v) for v in arrays().values()]
    with pytest.raises(InvalidInput, match="sampling"):
        torch.ops.imp_trt.instance_mask_projection(*tensors, 3, 6, 7, 1.0, "cubic")


def test_pasting() -> None:
    with pytest.raises(InvalidInput, match=r"masks: expected shape \[N, P, P\]"):
        paste_masks(np.zeros((2, 3, 4, 4)), np.zeros((2, 3, 4)), (5, 5))
    with pytest.raises(InvalidInput, match=r"boxes: expected shape \[3, 4\]"):
        paste_masks(np.zeros((3, 4, 4)), np.zeros((2, 4)), (5, 5))
    with pytest.raises(InvalidInput, match="canvas_size"):
        paste_masks(np.zeros((3, 4, 4)), np.zeros((3, 4)), (5, -1))
    assert paste_masks(np.zeros((0, 4, 4)), np.zeros((0, 4)), (5, 6)).shape == (0, 5, 6)
