"""Makes the plugins known to TensorRT: the C++ library where there is one, else the Python classes.

Registration is global and lasts as long as the process; engines and parsers find a plugin by name, version
and namespace.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from imp_trt.cuda.kernels import current_device
from imp_trt.cuda.platform import LIBRARY_VARIABLE
from imp_trt.errors import DependencyMissing, EngineIncompatible, UsageError
from imp_trt.plugins.python_plugin import (
    NAMESPACE,
    VERSION,
    PluginOperator,
    make_creator,
)

_BUILT_FOR = re.compile(rb"imp_trt_plugins built for TensorRT (\d+)\.(\d+)\.(\d+);")
_RTX_INTERFACES_OF = 11  # TensorRT-RTX 1.x has the plugin interfaces of TensorRT 11
_python: dict[str, list[Any]] = {}  # module name -> the creators registered from here


def operators() -> tuple[type[PluginOperator], ...]:
    """The operators that have a plugin."""
    from imp_trt.plugins.instance_mask_projection.plugin import InstanceMaskProjection
    from imp_trt.plugins.multilevel_roi_align.plugin import MultilevelRoiAlign

    return InstanceMaskProjection, MultilevelRoiAlign


def plugin_names() -> tuple[str, ...]:
    """Names of the operators that have a plugin, as ONNX nodes and plugin creators carry them."""
    return tuple(operator.NAME for operator in operators())


def register_plugins(trt: Any, library: Path | None = None) -> str:
    """Registers the plugins in TensorRT's global registry; more than one call does no harm.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        library: libimp_trt_plugins.so; default: the environment variable IMP_TRT_PLUGIN_LIBRARY, and
            without it the Python plugins, which need no library.

    Returns:
        "c++" or "python": which plugins TensorRT will use.

    Raises:
        DependencyMissing: the library does not exist or TensorRT cannot load it.
        EngineIncompatible: the library was built for another major of TensorRT.
        UsageError: a library is asked for and the Python plugins are registered already; or another
            library has registered one of the names.
    """
    path = library or (Path(os.environ[LIBRARY_VARIABLE]) if os.environ.get(LIBRARY_VARIABLE) else None)
    registry = trt.get_plugin_registry()
    missing = set(plugin_names()) - _registered(registry)
    if not missing:
        return _already(trt, path)
    if len(missing) < len(plugin_names()):
        present = sorted(set(plugin_names()) - missing)
        raise UsageError(
            "another library has registered a plugin of imp_trt",
            expected="all or none of " + ", ".join(plugin_names()),
            got=", ".join(present),
            fix="call register_plugins() before loading it",
        )
    if path is not None:
        _load(trt, registry, path)
        return "c++"
    creators = [make_creator(trt, operator) for operator in operators()]
    for creator in creators:
        registry.register_creator(creator, NAMESPACE)
    _python[trt.__name__] = creators
    return "python"


def prepare_kernels(names: Collection[str]) -> None:
    """Compiles and loads the kernels of Python plugins on the current GPU.

    The plugins do that themselves when they are attached to a context; but there TensorRT lets no error
    through, and says only that it has no context.

    Args:
        names: of operators, see plugin_names.

    Raises:
        DependencyMissing: no NVRTC, one newer than the driver, or one that does not know the GPU.
        BuildError, DeviceError: the kernels cannot be compiled or loaded.
    """
    for operator in operators():
        if operator.NAME in names:
            operator.prepare(current_device())


def _registered(registry: Any) -> set[str]:
    # get_creator() would log an error for every name that is not there.
    return {
        creator.name
        for creator in registry.all_creators
        if (creator.plugin_version, creator.plugin_namespace) == (VERSION, NAMESPACE)
    }


def _already(trt: Any, path: Path | None) -> str:
    if trt.__name__ not in _python:
        return "c++"
    if path is not None:
        raise UsageError(
            f"the plugin library {path} comes too late: the Python plugins are registered in this process",
            fix=f"set {LIBRARY_VARIABLE}, or call register_plugins(trt, library), before anything of imp_trt "
            "builds or loads an engine",
        )
    return "python"


def _load(trt: Any, registry: Any, path: Path) -> None:
    how = "build it as plugins/tensorrt/README.md says, or leave the library out to use the Python plugins"
    if not path.is_file():
        raise DependencyMissing(f"the plugin library {path}", got="no such file", fix=how)
    built_for = _BUILT_FOR.search(path.read_bytes())
    if built_for is None:
        raise DependencyMissing(
            f"{path} as plugin library", got="another file", expected="libimp_trt_plugins.so"
        )
    major = interface_major(trt)
    if int(built_for[1]) != major:
        raise EngineIncompatible(
            f"the plugin library {path}",
            expected=f"built for TensorRT {major}.x ({trt.__name__} {trt.__version__})",
            got="built for TensorRT " + b".".join(built_for.groups()).decode(),
            fix=f"build it against the headers of TensorRT {major}: plugins/tensorrt/README.md",
        )
    registry.load_library(str(path.resolve()))
    if not set(plugin_names()) <= _registered(registry):
        raise DependencyMissing(
            f"the plugin library {path}", got="TensorRT cannot load it, see its log", fix=how
        )


def interface_major(trt: Any) -> int:
    """The major of TensorRT whose plugin interfaces a module has; libraries are built for one of them."""
    return _RTX_INTERFACES_OF if trt.__name__ == "tensorrt_rtx" else int(trt.__version__.split(".")[0])
