# SPDX-License-Identifier: Apache-2.0
"""The run of a few minutes on a GPU: caps, record and table; its steps as far as they go here."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from imp_trt.cuda import kernels
from imp_trt.cuda.driver import Device, Stream
from imp_trt.errors import OutputError
from imp_trt.models.deploy import DeployModule
from tests.gpu.conftest import missing
from tests.gpu.steps import check_kernels, time_deploy_module, time_operators
from tests.samples.conftest import SAMPLES
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_kernels import kernels as fake_kernels
from tests.support.networks import detecting_network, small_config

FOLDER = SAMPLES / "on_target"
NAMES = ("budget", "checkout", "children", "minutes", "steps")


@pytest.fixture
def on_target(monkeypatch):
    """The modules of the on-target command."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    for name in NAMES:
        sys.modules.pop(name, None)


class Runs:
    """Short runs of steps that are Python programs."""

    def __init__(self, budget, folder):
        self.budget, self.path = budget, folder / "record.json"

    def step(self, name, source, cap_s=20.0, **more):
        return self.budget.TimedStep(name, "a test", (sys.executable, "-c", source), cap_s, **more)

    def go(self, *steps, seconds=60.0):
        record = self.budget.Record(self.path, {"command": "test"}, steps)
        return self.budget.Run(steps, seconds, record).go()

    def read(self):
        record = json.loads(self.path.read_text())
        return record, {step["step"]: step for step in record["steps"]}


@pytest.fixture
def runs(on_target, tmp_path):
    return Runs(on_target.budget, tmp_path)


@pytest.mark.slow
def test_results_are_merged_and_the_table_names_seconds_verdict_and_what_is_missing(runs, capsys):
    times = (
        "import json; print('a line');"
        "print(json.dumps({'mask_projection_us': {'street': 7.5}, 'verdict': 'fast'}));"
        "print(json.dumps({'mask_projection_us': {'log-uniform': 6.25}}))"
    )
    lacking = "import sys; sys.stderr.write('noise\\nno CUDA device: none\\n'); sys.exit(5)"
    code = runs.go(runs.step("times", times, on_gpu=True), runs.step("lacks", lacking, on_gpu=True))
    record, steps = runs.read()
    assert code == 0
    assert record["mask_projection_us"] == {"street": 7.5, "log-uniform": 6.25}
    assert record["complete"] is True
    assert (steps["times"]["state"], steps["times"]["verdict"]) == ("passed", "fast")
    assert steps["times"]["output"] == ["a line"]
    assert (steps["lacks"]["state"], steps["lacks"]["missing"]) == ("skipped", "no CUDA device: none")
    said = capsys.readouterr().out
    table = said[said.index("step  ") :]
    assert "passed: fast" in table
    assert "skipped; missing: no CUDA device: none" in table
    assert all(text in table for text in ("mask_projection_us", "street", "7.50", str(runs.path)))


@pytest.mark.slow
@pytest.mark.parametrize(("exits", "code"), [((0, 0), 0), ((5, 5), 5), ((5, 0), 0), ((0, 1), 1)], ids=str)
def test_the_exit_code_says_whether_kernels_ran(runs, exits, code):
    steps = [runs.step(str(i), f"raise SystemExit({n})", on_gpu=True) for i, n in enumerate(exits)]
    assert runs.go(*steps) == code
    assert runs.go(runs.step("machine", "pass"), runs.step("gpu", "raise SystemExit(5)", on_gpu=True)) == 5


@pytest.mark.slow
def test_a_step_over_its_cap_ends_with_what_it_has_reported(runs, tmp_path):
    source = "print('{\"a_us\": 1.5}', flush=True); import time; time.sleep(60)"
    start = time.monotonic()
    code = runs.go(runs.step("hangs", source, cap_s=3), runs.step("next", "pass", on_gpu=True))
    record, steps = runs.read()
    assert time.monotonic() - start < 20
    assert code == 1, "a step that hangs is a fault"
    assert record["a_us"] == 1.5
    assert (steps["hangs"]["state"], steps["hangs"]["missing"]) == ("cut off", "over its cap of 3 s")
    assert steps["next"]["state"] == "passed"


@pytest.mark.slow
def test_the_end_of_the_minutes_is_no_fault(runs):
    code = runs.go(
        runs.step("first", "pass", on_gpu=True),
        runs.step("long", "import time; time.sleep(60)"),
        runs.step("last", "pass", on_gpu=True),
        seconds=5,
    )
    _, steps = runs.read()
    assert code == 0
    assert [step["state"] for step in steps.values()] == ["passed", "cut off", "not run"]
    assert steps["long"]["missing"] == steps["last"]["missing"] == "time: the minutes were used up"


@pytest.mark.slow
def test_a_background_step_runs_beside_the_others_until_its_files_are_wanted(runs, tmp_path):
    made = tmp_path / "made"
    build = f"import time, pathlib; time.sleep(1.5); pathlib.Path({str(made)!r}).touch()"
    uses = f"import os, sys; sys.exit(0 if os.path.exists({str(made)!r}) else 1)"
    steps = (
        runs.step("build", build, background=True),
        runs.step("meanwhile", f"import os, sys; sys.exit(int(os.path.exists({str(made)!r})))"),
        runs.step("uses", uses, on_gpu=True, after="build"),
    )
    assert runs.go(*steps) == 0
    assert {step["state"] for step in runs.read()[1].values()} == {"passed"}


def test_a_program_that_is_not_there_is_skipped(runs, on_target):
    step = on_target.budget.TimedStep("tool", "a test", ("/no/such/program",), 5)
    assert runs.go(step) == 5
    assert "No such file" in runs.read()[1]["tool"]["missing"]


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_with_the_table(tmp_path, sign):
    program = (
        "import sys; from pathlib import Path; from budget import Record, Run, TimedStep\n"
        "sleep = (sys.executable, '-c', 'print(\"{}\", flush=True); import time; time.sleep(60)')\n"
        "steps = [TimedStep('sleeps', '', sleep, 50), TimedStep('next', '', sleep, 50)]\n"
        "record = Record(Path(sys.argv[1]), {}, steps)\n"
        "sys.exit(Run(steps, 100, record).go())\n"
    )
    path = tmp_path / "record.json"
    paths = os.pathsep.join([str(FOLDER), str(SAMPLES.parent)])
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(200):
        if path.exists():
            break
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(sign)
    said, _ = child.communicate(timeout=30)
    steps = {step["step"]: step["state"] for step in json.loads(path.read_text())["steps"]}
    assert child.returncode == 130
    assert steps == {"sleeps": "interrupted", "next": "not run"}
    assert "step  " in said, "the table"


def options(folder: Path, **more):
    values = dict(work=folder, out=folder / "out", engine=None, only=None, minutes=8.0)
    return argparse.Namespace(**values | more)


def test_the_plan_fits_its_minutes_and_comes_in_the_order_of_what_it_decides(on_target, tmp_path):
    steps = on_target.minutes.plan(options(tmp_path))
    assert [step.name for step in steps] == [
        "machine",
        "C++ build",
        "kernels",
        "tests/gpu",
        "C++ harness",
        "memcheck",
        "racecheck",
        "operators",
        "deploy module",
        "PyCUDA sample",
        "Torch-TensorRT",
    ]
    assert sum(step.cap_s for step in steps if not step.background) <= 8 * 60
    parts = [part for step in steps for part in step.command]
    assert all(Path(part).is_file() for part in parts if part.endswith(".py"))
    assert all(importlib.util.find_spec(part) for part in parts if part.startswith("tests."))
    longer = on_target.minutes.plan(options(tmp_path, minutes=16.0))
    assert [step.cap_s for step in longer] == [2 * step.cap_s for step in steps]
    only = on_target.minutes.plan(options(tmp_path, only="harness"))
    assert [step.name for step in only] == ["C++ build", "C++ harness"]


BARE = """
import sys

ABSENT = ("onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "torch_tensorrt")

class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda",
        "torch_tensorrt"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path[:] = [Bare(), *(f for f in sys.meta_path if "editable" not in repr(f))]
"""


def bare_run(tmp_path, *arguments):
    """The command where imp-trt is not installed; exit code, record and what it printed."""
    (tmp_path / "sitecustomize.py").write_text(BARE)
    command = [sys.executable, str(FOLDER / "on_target.py"), "--out", "out", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("TENSORRT_ROOT", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    (path,) = (tmp_path / "out").glob("*.json")
    return done.returncode, json.loads(path.read_text()), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(missing() is None, reason="has a GPU; run samples/on_target itself")
def test_a_bare_checkout_without_a_gpu_names_what_every_step_lacks(tmp_path):
    code, record, said = bare_run(tmp_path, "--minutes", "8")
    steps = {step["step"]: step for step in record["steps"]}
    assert code == 5, said
    assert record["complete"]
    assert record["machine"]["gpu"] == ""
    assert steps.pop("machine")["verdict"].startswith("no CUDA device")
    assert steps.pop("C++ build")["missing"]
    for step in steps.values():
        assert step["state"] == "skipped", step
        assert step["missing"].startswith("no CUDA device"), step
    assert "--minutes 8" in record["command"]


@pytest.mark.slow
@pytest.mark.skipif(missing() is None, reason="has a GPU; run samples/on_target itself")
def test_one_step_of_a_bare_checkout(tmp_path):
    code, record, said = bare_run(tmp_path, "--minutes", "1", "--only", "kernels")
    assert code == 5, said
    assert [(step["step"], step["state"]) for step in record["steps"]] == [("kernels", "skipped")]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    command = [sys.executable, str(FOLDER / "on_target.py"), "--minutes", "1", "--out", "file"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == OutputError.exit_code
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_two_steps_report_at_the_same_time(runs):
    source = "import json\nfor i in range(300): print(json.dumps({'%s_us': {str(i): i}}), flush=True)"
    steps = [runs.step(name, source % name, background=name == "a") for name in ("a", "b")]
    assert runs.go(*steps, runs.step("uses", "pass", on_gpu=True, after="a")) == 0
    record, _ = runs.read()
    assert [len(record[f"{name}_us"]) for name in ("a", "b")] == [300, 300]


@pytest.mark.parametrize("value", ["0", "-3", "many", "nan"])
def test_minutes_that_are_none_are_rejected(tmp_path, value):
    command = [sys.executable, str(FOLDER / "on_target.py"), "--minutes", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "minutes" in done.stderr


def test_a_checkout_whose_links_were_lost_is_copied(on_target, tmp_path, monkeypatch):
    (tmp_path / "imp_trt").mkdir()
    (tmp_path / "imp_trt" / "__init__.py").write_text("")
    for name in ("export", "plugins", "train"):
        (tmp_path / "imp_trt" / name).write_text(f"../{name}")  # what a checkout without links has
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    assert on_target.checkout.folder() == SAMPLES.parent, "this checkout has its links"
    monkeypatch.setattr(on_target.checkout, "ROOT", tmp_path)
    copy = on_target.checkout.folder()
    assert copy != tmp_path
    assert (copy / "imp_trt" / "plugins" / "__init__.py").is_file()
    assert on_target.checkout.folder() == copy


@pytest.fixture
def stand_in(monkeypatch):
    """A CUDA driver whose kernels NumPy and PyTorch compute."""
    monkeypatch.setattr(kernels, "_image", lambda unit, device: b"image")
    with FakeCuda(kernels=fake_kernels()).installed() as fake:
        yield fake


def reported(capsys):
    """The lines of JSON that a step has printed."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_the_kernels_step_on_the_stand_in(stand_in, capsys):
    assert check_kernels.main(["--quick"]) == 0
    results = reported(capsys)
    assert results[-1]["verdict"].startswith("35 kernels, 32-32 registers")
    assert "; 0 results differ" in results[-1]["verdict"]
    cases = [case for r in results for case in r.get("kernels", {}).get("mask_projection", {}).values()]
    assert len(cases) == 9
    assert all(case["equals_cpu"] for case in cases)


@pytest.mark.slow
def test_a_wrong_kernel_fails_the_kernels_step(stand_in, capsys):
    name = "imp_mask_projection_rect_f16"
    right = stand_in.kernels[name]

    def wrong(grid, block, *arguments):
        right(grid, block, *arguments)
        stand_in.array(arguments[4], (1,), "float16")[0] += 1

    stand_in.kernels[name] = wrong
    assert check_kernels.main(["--quick"]) == 1
    said = capsys.readouterr()
    assert "1 results differ" in said.out
    assert "rect f16: differs by up to 1 from the CPU" in said.err


@pytest.fixture
def host_as_gpu(monkeypatch):
    """Tensors of PyTorch's "cuda" are on the host, where the stand-in's kernels find them."""
    for name in ("empty", "zeros", "full", "randn", "randint"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, _make=make, device=None, **more: _make(*a, **more))
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)


def once(work, *_):
    """Instead of a measurement."""
    work()
    return 1.0


def test_the_operators_step_times_every_form(stand_in, host_as_gpu, monkeypatch, capsys):
    step = time_operators
    projection, roi = step.projection_bench, step.roi_bench
    monkeypatch.setattr(projection, "SIZES", (("small", "street", 24, 48, 8),))
    monkeypatch.setattr(projection.Case, "scatter", lambda self: self.kernel().float())
    monkeypatch.setattr(projection.Case, "scatter_and_cast", lambda self: self.kernel())
    for name, value in (("CHANNELS", 8), ("HEIGHT", 128), ("WIDTH", 256)):
        monkeypatch.setattr(roi, name, value)
    signature = inspect.signature(step.mask_projection.backward)  # PyTorch's own tensors of a GPU are needed
    monkeypatch.setattr(step.mask_projection, "backward", signature.bind)
    monkeypatch.setattr(step, "algorithm1", lambda device: None)
    monkeypatch.setattr(step, "LETTERBOXES", (((36, 48), (32, 64)),))
    device = Device.open()
    stream = Stream(device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=stream.handle))
    for case in (projection.Case, roi.Case):  # a tensor of the GPU waits for its kernel when it is read
        launch = case.kernel
        monkeypatch.setattr(case, "kernel", lambda self, _run=launch: (_run(self), stream.synchronize())[0])
    for name, value in (
        ("need_torch", lambda: None),
        ("require_gpu", lambda: device),
        ("machine", lambda device: {}),
        ("microseconds", once),
        ("cold_microseconds", once),
        ("copy_rate", lambda: 1e12),
    ):
        monkeypatch.setattr(step, name, value)
    assert step.main() == 0, capsys.readouterr().out
    keys = {key for line in reported(capsys) for key in line if key.endswith("_us")}
    assert keys == {
        "mask_projection_us",
        "mask_projection_cold_us",
        "mask_projection_backward_us",
        "algorithm1_us",
        "algorithm1_and_cast_us",
        "letterbox_us",
        "class_map_back_us",
        "roi_align_us",
        "torchvision_roi_align_us",
    }


@pytest.mark.slow
def test_the_deploy_step_tells_the_cost_of_imp(stand_in, host_as_gpu, monkeypatch, capsys):
    step = time_deploy_module
    names = {True: "panoptic-fpn-imp", False: "panoptic-fpn"}
    networks = {imp: DeployModule(detecting_network(small_config(name))) for imp, name in names.items()}
    monkeypatch.setattr(step, "CASES", ((torch.float32, 64, 96),))
    monkeypatch.setattr(step, "module_of", lambda imp, dtype, size: networks[imp])
    monkeypatch.setattr(step, "need_torch", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(step, "median_us", once)

    def capture(module, frames):
        return SimpleNamespace(replay=lambda: None), module(frames)

    monkeypatch.setattr(step, "capture", capture)
    assert step.main() == 0
    lines = reported(capsys)
    assert {key for line in lines for key in line} == {
        "deploy_eager_us",
        "deploy_cuda_graph_us",
        "deploy_graph_equals_eager",
        "deploy_without_imp_us",
        "verdict",
    }
    assert "of which IMP 0.00 ms" in lines[-1]["verdict"]
