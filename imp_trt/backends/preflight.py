# SPDX-License-Identifier: Apache-2.0
"""Checks whether an engine loads on a platform, before TensorRT reads it, and how to fix it if not.

The checks need the manifest, the first bytes of the engine and the installed packages only. TensorRT loads
engines of its own version, or version-compatible ones of earlier versions; TensorRT-RTX only those of its own
version. Compute capabilities must be equal, unless the engine was built for Ampere and later.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from imp_trt.artifacts.artifact import AnyManifest, Artifact, NetworkArtifact
from imp_trt.artifacts.engine_info import EngineBackendName, EngineInfo
from imp_trt.artifacts.manifest import Manifest
from imp_trt.artifacts.network_manifest import NetworkManifest
from imp_trt.artifacts.plan_header import HEADER_BYTES, RTX_CAPABILITIES, PlanHeader, read_plan_header
from imp_trt.cuda.platform import LIBRARY_VARIABLE, Gpu, Platform
from imp_trt.errors import DependencyMissing, EngineIncompatible, ImpTrtError, InvalidInput

_FOUR_NUMBERS_FROM = (10, 8)
"""TensorRT version from which the version of its Python package has the build number; before: 10.3.0."""

TITLES: dict[EngineBackendName, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class Problem:
    """A reason why an engine does not load on a platform.

    Attributes:
        what: what does not match.
        expected, got: required and actual value.
        fix: how to fix it, as a command if possible.
        missing: True if something must be installed; False if another engine is needed.
    """

    what: str
    expected: str
    got: str
    fix: str
    missing: bool = False

    def error(self) -> ImpTrtError:
        """The exception for the problem."""
        kind = DependencyMissing if self.missing else EngineIncompatible
        return kind(self.what, expected=self.expected, got=self.got, fix=self.fix)


def check(
    artifact: Artifact | NetworkArtifact, platform: Platform | None = None, backend: str | None = None
) -> None:
    """Check that an engine loads.

    Args:
        artifact: the engine and its manifest.
        platform: None detects that of this machine.
        backend: name of the backend that will run it; None for the engine's own.

    Raises:
        InvalidInput: the artifact is not an engine.
        ArtifactError: its file is truncated.
        EngineIncompatible: it was built for another library, version, GPU or platform.
        DependencyMissing: a library, the GPU or the plugins are missing.
    """
    header = read_plan_header(artifact.payload[:HEADER_BYTES])
    for problem in problems(artifact.manifest, header, platform or Platform.detect(), backend):
        raise problem.error()


def problems(
    manifest: AnyManifest, header: PlanHeader, platform: Platform, backend: str | None = None
) -> list[Problem]:
    """All reasons why an engine does not load; those that an installation cannot fix come first.

    Raises:
        InvalidInput: the manifest is not that of an engine.
    """
    engine = manifest.engine
    if engine is None:
        raise InvalidInput("artifact", expected="an engine", got=f"kind {manifest.kind!r}")
    found = [
        *_backend_problems(engine, backend),
        *_header_problems(manifest, engine, header),
        *_platform_problems(manifest, engine, platform),
        *_library_problems(manifest, engine, platform),
        *_gpu_problems(manifest, engine, platform),
        *_plugin_problems(manifest, engine, platform),
    ]
    return sorted(found, key=lambda problem: problem.missing)


def check_plugins(platform: Platform) -> None:
    """Check that the plugins run on this machine's GPU: compile and load their kernels.

    Compiled kernels are cached (:mod:`imp_trt.cuda.cache`). Does nothing without a GPU or with the C++
    library.

    Raises:
        DependencyMissing: no NVRTC, none for driver and GPU, or the C++ library does not exist.
        BuildError, DeviceError: the kernels do not compile, or the driver does not load them.
    """
    if not isinstance(platform.gpu, Gpu):
        return
    try:
        if isinstance(platform.plugins, ImpTrtError):
            raise platform.plugins
        if not os.environ.get(LIBRARY_VARIABLE):
            _load_kernels()
    except ImpTrtError as error:
        fix = error.fix or "imp-doctor shows details"
        raise type(error)(
            f"plugins on this GPU: {error.what}",
            expected=error.expected,
            got=error.got,
            fix=f"{fix}; or build the C++ library and set {LIBRARY_VARIABLE}; or build without plugins: "
            "--no-plugin",
        ) from error


def _load_kernels() -> None:
    from imp_trt.cuda import driver
    from imp_trt.plugins.registration import operators

    before = driver.call("cuCtxGetCurrent")
    try:
        device = driver.Device.open()
        try:
            for operator in operators():
                operator.try_kernels(device)
        finally:
            device.close()
    finally:
        driver.call("cuCtxSetCurrent", before)


def export_command(manifest: AnyManifest, target: str, *more: str) -> str:
    """The command that exports an artifact's network for a target, with the same options if it has them.

    Args:
        manifest: of the artifact.
        target: value of imp-export's option --target.
        more: additional arguments.
    """
    # Low precision makes a GPU faster and a CPU slower.
    precision = "fp32" if target == "onnxruntime" else manifest.precision
    if isinstance(manifest, NetworkManifest):
        parts = ["imp-export", "FILE.onnx", "--engine", precision, "--target", target]
        if manifest.engine is not None and target != "onnxruntime":
            parts += _engine_options(manifest.engine, target)
        return " ".join([*parts, *more])
    parts = ["imp-export", "--engine", precision, "--target", target]
    if not _is_bundled(manifest.weights_sha256):
        parts += ["--weights", "CHECKPOINT"]
    if manifest.input.batch != 1:
        parts += ["--batch", str(manifest.input.batch)]
    if precision in ("int8", "fp8"):
        parts += ["--calib", "FOLDER", *_kept_float16(manifest)]
    if manifest.canvas_part is not None:
        parts.append("--parts")
    if manifest.engine is not None and target != "onnxruntime":
        parts += _engine_options(manifest.engine, target)
    return " ".join([*parts, *more])


def _kept_float16(manifest: Manifest) -> list[str]:
    """The layers that the export kept in float16, whose names are untrusted text."""
    kept = manifest.verification.get("kept_float16")
    if not isinstance(kept, list) or not kept or not all(map(_is_layer, kept)):
        return []
    return ["--keep-float16", ",".join(kept)]


def _is_layer(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.]{1,100}", name) is not None


def _engine_options(engine: EngineInfo, target: str) -> list[str]:
    parts = []
    if engine.operators and bool(engine.plugins) != (target != "tensorrt-rtx"):
        parts.append("--plugin" if engine.plugins else "--no-plugin")
    if target != "tensorrt-rtx":
        if engine.hardware_compatibility != "none":
            parts += ["--hardware-compatible", engine.hardware_compatibility]
    return parts


def _is_bundled(digest: str) -> bool:
    from imp_trt.weights import bundled

    try:
        return hashlib.sha256(bundled().read_bytes()).hexdigest() == digest
    except (OSError, ImpTrtError):
        return False


def _backend_problems(engine: EngineInfo, backend: str | None) -> Iterator[Problem]:
    if backend is not None and backend != engine.backend:
        yield Problem(
            "backend",
            expected=f"{engine.backend!r}, for which the engine was built",
            got=repr(backend),
            fix=f"leave the backend out, or pass {engine.backend!r}",
        )


def _header_problems(manifest: AnyManifest, engine: EngineInfo, header: PlanHeader) -> Iterator[Problem]:
    differences = list(_header_differences(engine, header))
    if not differences:  # the command is costly: it compares the bundled weights
        return
    again = export_command(manifest, manifest.target)
    for expected, got in differences:
        yield Problem(
            "engine's header and manifest",
            expected=f"{expected}, as the manifest says",
            got=got,
            fix=f"the two files do not belong together; copy both again, or {again}",
        )


def _header_differences(engine: EngineInfo, header: PlanHeader) -> Iterator[tuple[str, str]]:
    """What the manifest says and what the header does."""
    if header.backend != engine.backend:
        actual = f"one of {TITLES[header.backend]}" if header.backend else "a file that is not an engine"
        yield f"an engine of {TITLES[engine.backend]}", actual
        return
    if header.version is not None and not _equal(header.version, engine.version):
        yield f"{TITLES[engine.backend]} {engine.version}", header.version
    capabilities = header.compute_capabilities
    if capabilities and not set(engine.compute_capabilities) <= set(capabilities):
        yield f"compute capabilities {_listed(engine.compute_capabilities)}", _listed(capabilities)


def _platform_problems(manifest: AnyManifest, engine: EngineInfo, platform: Platform) -> Iterator[Problem]:
    if engine.platform != platform.name:
        yield Problem(
            "engine's platform",
            expected=engine.platform,
            got=platform.name,
            fix=f"build it on this machine: {export_command(manifest, engine.backend)}",
        )


def _library_problems(manifest: AnyManifest, engine: EngineInfo, platform: Platform) -> Iterator[Problem]:
    title, installed = TITLES[engine.backend], platform.version(engine.backend)
    if engine.version_compatible:
        # TensorRT runs the library inside only with engine_host_code_allowed, which imp_trt does not set.
        yield Problem(
            "engine for later TensorRT versions",
            expected="an engine without host code; imp_trt does not run code from an engine",
            got="one built with --version-compatible, which contains a TensorRT runtime",
            fix=f"use trtexec, Triton or C++; for imp_trt: {export_command(manifest, engine.backend)}",
        )
    if installed is None:
        yield _missing_library(manifest, engine, platform)
    elif not _equal(engine.version, installed):
        rebuild = export_command(manifest, engine.backend)
        yield Problem(
            f"{title} version of the engine",
            expected=engine.version,
            got=f"{installed} installed",
            fix=f"{rebuild}; or install the engine's version: {_install(engine, platform)}",
        )


def _missing_library(manifest: AnyManifest, engine: EngineInfo, platform: Platform) -> Problem:
    other: EngineBackendName = "tensorrt" if engine.backend == "tensorrt-rtx" else "tensorrt-rtx"
    version = platform.version(other)
    fix = _install(engine, platform)
    if version:
        fix += f"; or build for what is installed: {export_command(manifest, other)}"
    return Problem(
        TITLES[engine.backend],
        expected=f"{TITLES[engine.backend]} {engine.version}",
        got=f"only {TITLES[other]} {version}" if version else "nothing installed",
        fix=fix,
        missing=True,
    )


def _install(engine: EngineInfo, platform: Platform) -> str:
    if engine.backend == "tensorrt" and platform.name == "linux-aarch64":
        # On Jetson and DRIVE the libraries are part of the system; the packages from PyPI are for servers.
        return f"TensorRT {engine.version} as the system's package (JetPack, DriveOS)"
    version = engine.version
    if engine.backend == "tensorrt" and _numbers(version) < _FOUR_NUMBERS_FROM:
        version = ".".join(version.split(".")[:3])
    # The name without a suffix is the package for the newest CUDA that a release supports.
    suffix = "-cu12" if isinstance(platform.gpu, Gpu) and platform.gpu.driver[0] == 12 else ""
    return f"pip install {engine.backend}{suffix}=={version}"


def _gpu_problems(manifest: AnyManifest, engine: EngineInfo, platform: Platform) -> Iterator[Problem]:
    required, gpu = _required_gpu(engine), platform.gpu
    if not isinstance(gpu, Gpu):
        yield Problem(
            gpu.what,
            expected=f"a GPU of compute capability {required}",
            got=str(gpu.got or "none"),
            fix=f"{gpu.fix or 'run on a machine with an NVIDIA GPU'}; "
            f"or export for the CPU: {export_command(manifest, 'onnxruntime')}",
            missing=True,
        )
    elif not _runs_on(engine, gpu.compute_capability):
        if engine.backend == "tensorrt-rtx" and gpu.compute_capability in RTX_CAPABILITIES:
            more = ("--compute-capability", gpu.compute_capability)
            command = export_command(manifest, "tensorrt-rtx", *more)
        else:  # TensorRT-RTX does not support every GPU
            command = export_command(manifest, "tensorrt")
        yield Problem(
            "compute capability of the engine",
            expected=required,
            got=f"{gpu.compute_capability} ({gpu.name})",
            fix=f"build it for this GPU: {command}",
        )


def _required_gpu(engine: EngineInfo) -> str:
    if engine.hardware_compatibility == "ampere_plus":
        return "8.0 or later"
    *others, last = engine.compute_capabilities
    return f"{', '.join(others)} or {last}" if others else last


def _runs_on(engine: EngineInfo, capability: str) -> bool:
    if engine.hardware_compatibility == "ampere_plus":
        return int(capability.split(".")[0]) >= 8
    return capability in engine.compute_capabilities


def _plugin_problems(manifest: AnyManifest, engine: EngineInfo, platform: Platform) -> Iterator[Problem]:
    if not engine.plugins or isinstance(platform.plugins, str):
        return
    reason = platform.plugins
    # Without plugins the engine is built from the function bodies of the operators.
    functions = replace(engine, operators=dict.fromkeys(engine.operators, "function"))
    without = export_command(replace(manifest, engine=functions), engine.backend)
    yield Problem(
        f"plugins of the engine: {reason.what}",
        expected=f"plugins for {', '.join(engine.plugins)}",
        got=str(reason.got or "none"),
        fix=f"{reason.fix or 'imp-doctor shows details'}; "
        f"or build the C++ library and set {LIBRARY_VARIABLE}; or build without plugins: {without}",
        missing=True,
    )


def _equal(one: str, other: str) -> bool:
    """Whether two versions have the same common prefix: packages have 10.3.0, plans 10.3.0.26."""
    a, b = _numbers(one), _numbers(other)
    shared = min(len(a), len(b))
    return shared > 0 and a[:shared] == b[:shared]


def _numbers(version: str) -> tuple[int, ...]:
    # Debian has 10.3.0.26-1+cuda12.5.
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _listed(capabilities: tuple[str, ...]) -> str:
    return ", ".join(capabilities)
