# SPDX-License-Identifier: Apache-2.0
"""imp-bench from its command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from imp_trt.artifacts.artifact import manifest_path
from imp_trt.artifacts.reading import read_manifest
from imp_trt.cli import inspect
from imp_trt.cli.bench import main
from imp_trt.export import ExportOptions
from imp_trt.export.pipeline import export_onnx
from imp_trt.models.checkpoint import save_checkpoint
from tests.support.networks import detecting_network, small_config

pytestmark = pytest.mark.usefixtures("workplace")
MODEL = "model/tiny.fp32.onnx"
SHORT = [MODEL, "--frames", "3", "--warmup", "1", "--threads", "1", "-q"]
CLIP = ["--source", "in/clip.mp4"]
STREETS = ["--frame-size", "48x64"]


def test_the_table_is_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, *CLIP]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("model       tiny.fp32.onnx: fp32, onnxruntime")
    assert "in/clip.mp4, 64x48" in out
    assert max(map(len, lines)) <= 100
    stages = "decode pre upload infer download post run draw end-to-end".split()
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in stages] == stages
    assert err == ""


@pytest.mark.slow
def test_json_files_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    files = ["-o", "out/report.json", "--export-times", "times.json"]
    assert main([*SHORT, *STREETS, "--json", "--percentiles", "50,99", *files]) == 0
    data = json.loads(capsys.readouterr().out)
    assert json.loads(Path("out/report.json").read_text()) == data
    infer = data["latency"]["ms"]["infer"]
    assert list(infer) == ["mean", "min", "p50", "p99", "max"]
    assert infer["p99"] is None
    times = json.loads(Path("times.json").read_text())
    assert len(times["frames"]) == 3
    assert infer["max"] == pytest.approx(max(row["infer"] for row in times["frames"]), abs=1e-3)
    assert times["warm_up"]["frames"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "times"),
    [("file/r.json", "t.json"), ("r.json", "file/t.json"), ("file/r.json", "file/t.json")],
)
def test_a_file_that_cannot_be_written_takes_no_other_output(
    output: str, times: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    argv = [*SHORT, *STREETS, "--json", "--record", "-o", output, "--export-times", times]
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["latency"]
    assert "recorded in" in err
    failed = [path for path in (output, times) if path.startswith("file/")]
    assert err.count("error: ") == len(failed)
    assert [path for path in (output, times) if not Path(path).exists()] == failed


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "full"])
def test_a_stdout_that_fails_takes_no_file(closed: bool, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, os.fdopen(writer, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "imp_trt.cli.bench", *SHORT, *STREETS, "-o", "r.json", "--record"],
            stdout=pipe if closed else full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == (1 if closed else 2), done.stderr
    assert json.loads(Path("r.json").read_text())["latency"]
    assert set(read_manifest(MODEL).benchmark) == {"imp_bench"}
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_gates_decide_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, *STREETS, "--assert", "p50<1000s", "--assert", "infer.max<1000s"]) == 0
    assert "p50<1000s: passed" in capsys.readouterr().out
    assert main([*SHORT, *STREETS, "--json", "--assert", "mean<0.001us", "--assert", "fps>0.001"]) == 6
    out, err = capsys.readouterr()
    verdicts = json.loads(out)["asserts"]
    assert [verdict["held"] for verdict in verdicts] == [False, True]
    assert err.startswith("error: latency gate missed: expected mean<0.001us, got end-to-end.mean ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--assert", "p99 < fast"], "p99<30ms"),
        (["--assert", "p99<30ms"], "at least 100"),
        (["--assert", "upload.mean<1ms"], "upload.mean"),
        (["--assert", "maskrcnn.ratio>1"], "--compare maskrcnn"),
        (["--percentiles", "50,101"], "--percentiles"),
        (["--warmup", "soon"], "--warmup"),
        (["--frame-size", "big"], "HEIGHTxWIDTH"),
        ([*CLIP, "--frame-size", "64x64"], "--frame-size"),
        (["--source", "nowhere.mp4"], "nowhere.mp4"),
        (["-o", "report.txt"], ".json"),
        (["-o", f"{MODEL}.json"], "a new file"),
        (["--export-times", f"{MODEL}.json"], "a new file"),
        (["-o", "a.json", "--export-times", "a.json"], "different files"),
        (["-o", "in/../a.json", "--export-times", "./a.json"], "different files"),
        (["--compare", "pytorch"], "--weights FILE"),
        (["--weights", "weights.safetensors"], "--compare pytorch with it"),
        (["--work-dir", "out", "--compare", "pytorch"], "--compare maskrcnn with it"),
    ],
)
def test_usage_errors(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = manifest_path(MODEL).read_bytes()
    assert main([*SHORT, *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert [line.partition(":")[0] for line in err.splitlines() if "more than once" not in line] == ["error"]
    assert manifest_path(MODEL).read_bytes() == manifest


@pytest.mark.parametrize("argv", [["--duration", "0s"], ["--frames", "0"], ["--compare", "tensorflow"]])
def test_what_argparse_rejects(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*SHORT, *argv])
    assert caught.value.code == 2


def test_a_duration_next_to_a_number_of_frames(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, *STREETS, "--frames", "2", "--duration", "9s", "-q"]) == 0
    assert "--duration has no effect" in capsys.readouterr().err


@pytest.mark.slow
def test_recording_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    before = manifest_path(MODEL).read_bytes()
    assert main([*SHORT, *STREETS]) == 0
    assert manifest_path(MODEL).read_bytes() == before
    assert main([*SHORT, *STREETS, "--record"]) == 0
    assert set(read_manifest(MODEL).benchmark) == {"imp_bench"}
    assert "recorded in" in capsys.readouterr().err
    assert inspect.main([str(MODEL)]) == 0
    assert re.search(r"measured +p50 [\d.]+ ms end to end, [\d.]+ frames/s on ", capsys.readouterr().out)
    assert main(["weights.safetensors", "--record"]) == 2


def test_a_missing_artifact() -> None:
    assert main(["nowhere.onnx", *STREETS]) == 4


@pytest.mark.slow
def test_an_exported_network_is_compared_with_pytorch(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = save_checkpoint(tmp_path / "net.safetensors", detecting_network(small_config()), {})
    artifact = export_onnx(weights, tmp_path / "net", ExportOptions(verify=False)).path
    argv = [str(artifact), "--weights", str(weights), "--compare", "pytorch", "--threads", "1"]
    argv += ["--frames", "2", "--duration", "10ms", *STREETS, "--json", "-q"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    (found,) = json.loads(out)["comparisons"]
    assert found["rounds"] >= 5
    assert found["ratio_min"] <= found["ratio"] <= found["ratio_max"]
    assert found["agreement"]["label_agreement"] >= 0.9999
    assert err == ""
    # Weights that are not the artifact's are no comparison.
    other = save_checkpoint(tmp_path / "other.safetensors", detecting_network(small_config(), 9), {})
    assert main([*argv, "--weights", str(other)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "sha256" in err


def test_importing_the_command_loads_no_runtime() -> None:
    heavy = "torch onnx onnxruntime tensorrt matplotlib torchvision".split()
    code = (
        "import sys, imp_trt.cli.bench as b, imp_trt.benchmark.run; b.parser(); "
        f"sys.exit(any(m in sys.modules for m in {heavy}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0
