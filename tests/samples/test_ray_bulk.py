# SPDX-License-Identifier: Apache-2.0
"""Many videos on Ray, on this machine alone."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

from imp_trt.artifacts.writing import write_artifact
from tests.samples.conftest import CLIP_FRAMES, SAMPLES
from tests.support import tiny, tiny_parts

PROGRAM = SAMPLES / "ray_bulk" / "ray_bulk.py"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install ray")


@pytest.fixture
def recordings(tmp_path, clip):
    folder = tmp_path / "recordings"
    for name in ("monday/front.mp4", "monday/rear.mp4", "front.MP4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, folder / name)
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.mark.slow
def test_what_is_done_is_not_done_again(sample, recordings, tmp_path):
    unfinished = sample("ray_bulk/ray_bulk.py").unfinished
    results = tmp_path / "results"
    with (recordings / "monday/rear.mp4").open("ab") as file:
        file.write(bytes(1000))
    tasks = unfinished(recordings, results)
    assert [video.relative_to(recordings).as_posix() for video, _ in tasks] == [
        "monday/rear.mp4",
        "front.MP4",
        "monday/front.mp4",
    ], "the largest first"
    assert len({place for _, place in tasks}) == 3
    tasks[0][1].parent.mkdir(parents=True)
    tasks[0][1].touch()
    assert unfinished(recordings, results) == tasks[1:]


@pytest.mark.slow
def test_a_worker_goes_on_after_a_damaged_video(sample, artifact, clip, tmp_path):
    worker = sample("ray_bulk/ray_bulk.py").Worker(str(artifact), 1)
    damaged, results = tmp_path / "damaged.mp4", tmp_path / "out" / "x.jsonl"
    damaged.write_bytes(clip.read_bytes()[:5000])
    assert "damaged.mp4" in worker.segment(str(damaged), str(results))["error"]
    assert not results.exists()
    assert worker.segment(str(clip), str(results))["frames"] == CLIP_FRAMES
    assert len(results.read_text().splitlines()) == CLIP_FRAMES


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_an_unfinished_video_is_done_again(sample, artifact, clip, tmp_path, monkeypatch, killed):
    program = sample("ray_bulk/ray_bulk.py")
    videos, output = tmp_path / "in", tmp_path / "out"
    videos.mkdir()
    shutil.copy(clip, videos)
    task = program.unfinished(videos, output)[0]
    run_pipeline = program.run_pipeline

    class Killed(BaseException):
        pass

    def stop(segmenter, source, sinks, **options):
        run_pipeline(segmenter, source, sinks, **options)
        raise Killed if killed else program.ImpTrtError("damaged")

    worker = program.Worker(str(artifact), 1)
    monkeypatch.setattr(program, "run_pipeline", stop)
    if killed:
        with pytest.raises(Killed):
            worker.segment(*map(str, task))
    else:
        assert worker.segment(*map(str, task)) == {"error": "damaged"}
    assert program.unfinished(videos, output) == [task]
    monkeypatch.setattr(program, "run_pipeline", run_pipeline)
    assert worker.segment(*map(str, task))["frames"] == CLIP_FRAMES
    assert [path.name for path in output.iterdir()] == [f"{clip.name}.jsonl"]
    assert not program.unfinished(videos, output)


def test_a_worker_runs_the_detector_on_every_kth_frame(sample, clip, tmp_path):
    worker = sample("ray_bulk/ray_bulk.py").Worker(str(tiny_parts.artifact(tmp_path)), 1, 2)
    results = tmp_path / "x.jsonl"
    assert worker.segment(str(clip), str(results))["frames"] == CLIP_FRAMES
    ages = [json.loads(line)["canvas_age"] for line in results.read_text().splitlines()]
    assert ages == [i % 2 for i in range(CLIP_FRAMES)]


def test_results_of_another_network_are_not_taken_for_done(sample, recordings, artifact, tmp_path, capsys):
    program, results = sample("ray_bulk/ray_bulk.py"), tmp_path / "results"
    for _, place in program.unfinished(recordings, results):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    command = [str(recordings), "-o", str(results)]
    for _ in range(2):
        assert program.main([str(artifact), *command]) == 0
    assert capsys.readouterr().out == "nothing left to do\n" * 2
    other = tmp_path / "other"
    other.mkdir()
    mixed = tiny.artifact(other, weights_sha256="ab" * 32)
    calibrated = tmp_path / "calibrated"
    calibrated.mkdir()
    model = tiny.graph()
    model.doc_string = "of the same weights"
    export = write_artifact(calibrated / artifact.name, model.SerializeToString(), tiny.manifest())
    for changed in (
        [str(mixed), *command],
        [str(export), *command],
        [str(artifact), *command, "--detect-every", "2"],
    ):
        assert program.main(changed) == 2
        assert "another folder as -o" in capsys.readouterr().err


def test_a_folder_without_videos_is_no_success(sample, artifact, tmp_path, capsys):
    main = sample("ray_bulk/ray_bulk.py").main
    for folder in (tmp_path / "mistyped", tmp_path):
        assert main([str(artifact), str(folder), "-o", str(tmp_path / "results")]) == 2
        assert f"videos below {folder}" in capsys.readouterr().err


def test_a_missing_network_is_reported_before_ray_starts(sample, recordings, tmp_path, capsys):
    main = sample("ray_bulk/ray_bulk.py").main
    assert main([str(tmp_path / "no.onnx"), str(recordings), "-o", str(tmp_path / "results")]) == 4
    assert "no.onnx" in capsys.readouterr().err


def _run(*arguments, program=PROGRAM):
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=environment,
    )


@pytest.mark.slow
def test_all_videos_on_two_workers_one_of_which_is_killed(recordings, artifact, tmp_path):
    (recordings / "broken.mp4").write_bytes(b"not a video")
    # One video takes its worker with it, once: the worker comes back, and so does the video.
    flag = tmp_path / "died"
    program = tmp_path / "ray_bulk.py"
    text = PROGRAM.read_text()
    begin = "        try:\n            with open_source(video)"
    assert begin in text
    dies = (
        f"        import os, pathlib\n"
        f"        flag = pathlib.Path({str(flag)!r})\n"
        f"        if 'rear' in video and not flag.exists():\n"
        f"            flag.touch()\n"
        f"            os._exit(1)\n"
    )
    program.write_text(text.replace(begin, dies + begin))
    results = tmp_path / "results"
    options = (artifact, recordings, "-o", results, "--workers", "2")
    done = _run(*options, program=program)
    assert done.returncode == 1, done.stdout + done.stderr
    assert flag.exists()
    assert "3 videos done, 1 failed" in done.stdout
    assert "broken.mp4: " in done.stderr
    found = sorted(path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file())
    videos = ["front.MP4.jsonl", "monday/front.mp4.jsonl", "monday/rear.mp4.jsonl"]
    assert found == [*videos, "network.txt"]
    for name in videos:
        lines = [json.loads(line) for line in (results / name).read_text().splitlines()]
        assert [line["index"] for line in lines] == list(range(CLIP_FRAMES))
    (recordings / "broken.mp4").unlink()
    again = _run(*options)
    assert (again.returncode, again.stdout) == (0, "nothing left to do\n")
