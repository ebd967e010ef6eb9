# SPDX-License-Identifier: Apache-2.0
"""What can be checked of the GPU benchmarks without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from imp_trt.cuda import nvrtc
from imp_trt.cuda.kernels import geometry
from imp_trt.errors import DependencyMissing
from imp_trt.ops import instance_mask_projection
from tests.bench import bench_mask_projection_cuda, bench_multilevel_roi_align_cuda

CANVAS = (60, 90)


@pytest.mark.parametrize("layout", bench_mask_projection_cuda.LAYOUTS)
@pytest.mark.parametrize("dtype", sorted(bench_mask_projection_cuda.DTYPES))
def test_the_pytorch_composition_draws_what_the_operator_draws(dtype: str, layout: str) -> None:
    data = bench_mask_projection_cuda.instances(layout, *CANVAS, 3, bench_mask_projection_cuda.DTYPES[dtype])
    composed = bench_mask_projection_cuda.composition(data, 3, CANVAS)
    expected = instance_mask_projection(*data, 3, CANVAS, bench_mask_projection_cuda.SCALE)
    assert expected.max() > 0.5
    difference = (composed.float() - expected.float()).abs().max()
    assert difference <= bench_mask_projection_cuda.TOLERANCE[dtype]


def in_the_fullest_tile(layout: str, height: int, width: int, classes: int) -> int:
    """The most boxes of one class that reach a tile of the kernel."""
    data = bench_mask_projection_cuda.instances(layout, height, width, classes, torch.float32)
    low, high = (data[0][0] * bench_mask_projection_cuda.SCALE).reshape(-1, 2, 2).unbind(1)
    assert (low < high).all()
    assert (low >= 0).all()
    assert (high <= torch.tensor([width, height])).all()
    constants = geometry("instance_mask_projection")
    size = torch.tensor([constants["IMP_MP_TILE_W"], constants["IMP_MP_TILE_H"]])
    tiles = torch.cartesian_prod(torch.arange(-(-width // size[0])), torch.arange(-(-height // size[1])))
    corner = (tiles * size)[:, None]
    reached = ((low < corner + size) & (high > corner)).all(-1)
    return max(int(reached[:, data[2][0] == label].sum(1).max()) for label in range(classes))


def test_the_street_is_crowded() -> None:
    goal, street = (size for name, *size in bench_mask_projection_cuda.SIZES if name == "cityscapes")
    assert [goal[0], street[0]] == ["log-uniform", "street"]
    assert goal[1:] == street[1:] == [256, 512, 8]
    assert in_the_fullest_tile(*goal) < 10 <= in_the_fullest_tile(*street)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_algorithm_1_compiles(arch: str) -> None:
    try:
        image = nvrtc.compile_program(bench_mask_projection_cuda.algorithm1_program(), arch)
    except DependencyMissing as error:
        pytest.skip(str(error))
    for name in ("cells", "bilinear", "nearest", "rect", "cast"):
        for dtype in bench_mask_projection_cuda.DTYPES:
            assert f"algorithm1_{name}_{dtype}".encode() in image


def test_launch_sizes_are_those_of_the_source() -> None:
    source = Path(bench_mask_projection_cuda.__file__).with_name("algorithm1.cu").read_text()
    assert f"#define IMP_A1_BLOCKS {bench_mask_projection_cuda.A1_BLOCKS}\n" in source
    assert f"#define IMP_A1_THREADS {bench_mask_projection_cuda.A1_THREADS}\n" in source


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("main", [bench_mask_projection_cuda.main, bench_multilevel_roi_align_cuda.main])
def test_without_a_gpu_the_benchmark_says_so(
    main: Callable[[list[str]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--json", str(tmp_path / "out.json")])
    assert ended.value.code == DependencyMissing.exit_code == 5
    assert "GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
