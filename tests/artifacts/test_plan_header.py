# SPDX-License-Identifier: Apache-2.0
"""The header of an engine, read from bytes that may be anything."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imp_trt.artifacts.plan_header import HEADER_BYTES, RTX_CAPABILITIES, PlanHeader, read_plan_header
from imp_trt.errors import ArtifactError
from tests.support import engines


def test_tensorrt() -> None:
    assert read_plan_header(engines.plan("10.3.0.26")) == PlanHeader("tensorrt", "10.3.0.26")
    assert read_plan_header(engines.plan("11.4.0.106")).version == "11.4.0.106"
    # All that trtexec reads is enough.
    assert read_plan_header(engines.plan("10.3.0.26")[:28]) == PlanHeader("tensorrt", "10.3.0.26")


def test_the_tag_is_that_of_the_samples() -> None:
    # kPLAN_FILE_TAG of trtexec, read as a little-endian integer.
    assert engines.plan()[:4] == (0x74727466).to_bytes(4, "little")


def test_tensorrt_rtx() -> None:
    header = read_plan_header(engines.rtx_plan(bits=0b10100, body=1000))
    assert header == PlanHeader("tensorrt-rtx", "1.7.1.116", ("8.6", "12.0"), 1064)
    assert read_plan_header(engines.rtx_plan(bits=0)).compute_capabilities == ()


def test_the_bit_after_the_last_capability_names_none() -> None:
    everything = 0xFFFFFFFF
    assert (
        read_plan_header(engines.rtx_plan("1.7.1.116", everything)).compute_capabilities == RTX_CAPABILITIES
    )
    before = read_plan_header(engines.rtx_plan("1.4.0.76", everything)).compute_capabilities
    assert before == RTX_CAPABILITIES[:-1]


def test_an_unread_rtx_release_gives_its_version_only() -> None:
    assert read_plan_header(engines.rtx_plan("2.0.0.1", 0b100)) == PlanHeader("tensorrt-rtx", "2.0.0.1")


def test_an_unknown_serialization_gives_the_backend_only() -> None:
    assert read_plan_header(engines.plan(serialization=1)) == PlanHeader("tensorrt")
    assert read_plan_header(engines.rtx_plan()[:4] + b"\x01\0\0\0" + bytes(60)) == PlanHeader("tensorrt-rtx")


@pytest.mark.parametrize("data", [bytes(64), b"\x7fELF" + bytes(60), b"PK\x03\x04" + bytes(60), b"a" * 28])
def test_foreign_bytes(data: bytes) -> None:
    assert read_plan_header(data) == PlanHeader()


@pytest.mark.parametrize("kept", range(28))
def test_too_few_bytes(kept: int) -> None:
    for whole in (engines.plan(), engines.rtx_plan()):
        with pytest.raises(ArtifactError, match=f"got {kept} bytes"):
            read_plan_header(whole[:kept])


def test_a_cut_rtx_header_gives_what_is_left() -> None:
    for kept in range(28, HEADER_BYTES):
        header = read_plan_header(engines.rtx_plan()[:kept])
        assert header.version == "1.7.1.116"
        assert header.compute_capabilities == (("8.6",) if kept >= 36 else ())


@settings(deadline=None)
@given(st.sampled_from([b"", b"ftrt", b"vtrt", b"vtrt\0\0\0\0"]), st.binary(max_size=200))
def test_any_bytes_are_read_or_rejected(tag: bytes, rest: bytes) -> None:
    try:
        header = read_plan_header(tag + rest)
    except ArtifactError:
        assert len(tag + rest) < 28
        return
    assert header.backend in (None, "tensorrt", "tensorrt-rtx")
    assert set(header.compute_capabilities) <= set(RTX_CAPABILITIES)


# Version, size and first 64 bytes of default engines (one Relu) that earlier releases built.
RECORDED = [
    (
        "1.4.0.76",
        131860,
        "7674727400000000020000000000000014030200000000000104004c76747274"
        "3e000000000000000000000000000000dc320000000000000000000000000000",
    ),
    (
        "1.5.0.114",
        131972,
        "7674727400000000020000000000000084030200000000000105007276747274"
        "7e000000000000000000000000000000dc320000000000000000000000000000",
    ),
    (
        "1.6.1.120",
        133612,
        "76747274000000000200000000000000ec090200000000000106017876747274"
        "7e000000000000000000000000000000f0320000000000000000000000000000",
    ),
]


@pytest.mark.parametrize(("version", "size", "head"), RECORDED, ids=[r[0] for r in RECORDED])
def test_headers_of_earlier_rtx_releases(version: str, size: int, head: str) -> None:
    named = RTX_CAPABILITIES[1:-1] if version.startswith("1.4.") else RTX_CAPABILITIES[1:]
    assert read_plan_header(bytes.fromhex(head)) == PlanHeader("tensorrt-rtx", version, named, size)


BUILD = """
import json, sys
import tensorrt_rtx as trt

def build(*capabilities):
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    frame = network.add_input("x", trt.float32, (1, 8))
    layer = network.add_activation(frame, trt.ActivationType.RELU)
    network.mark_output(layer.get_output(0))
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for i, name in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), i)
    plan = bytes(builder.build_serialized_network(network, config))
    return {"head": plan[:64].hex(), "size": len(plan)}

named = [n for n in trt.ComputeCapability.__members__ if n.startswith("SM")]
print(json.dumps({
    "version": trt.__version__,
    "each": {name: build(name) for name in named},
    "all": build(*named),
    "default": build(),
}))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Engines of TensorRT-RTX for each compute capability it knows; built in a child, which may crash."""
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("needs the package tensorrt-rtx")
    script: Path = tmp_path_factory.mktemp("rtx") / "build.py"
    script.write_text(BUILD)
    child = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def test_headers_of_real_rtx_engines(built: dict[str, Any]) -> None:
    assert len(built["each"]) >= 6
    for name, engine in built["each"].items():
        capability = f"{name[2:-1]}.{name[-1]}"
        assert read_plan_header(bytes.fromhex(engine["head"])) == PlanHeader(
            "tensorrt-rtx", built["version"], (capability,), engine["size"]
        )


def test_headers_of_portable_rtx_engines(built: dict[str, Any]) -> None:
    both = read_plan_header(bytes.fromhex(built["all"]["head"]))
    assert both.compute_capabilities == RTX_CAPABILITIES
    default = read_plan_header(bytes.fromhex(built["default"]["head"]))
    # Turing has to be asked for.
    assert default.compute_capabilities == RTX_CAPABILITIES[1:]
