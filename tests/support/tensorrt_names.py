# SPDX-License-Identifier: Apache-2.0
"""The names of TensorRT that imp_trt's sources use, read from the sources and compared with a real module.

Types are followed through assignments, loops and calls by the return types in the bindings' docstrings,
starting from parameters: by their annotation with a class of imp_trt.plugins.tensorrt_types or, where that
is Any, by their name. Expressions of unknown type are ignored.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.docstrings import parameters, returned

ROOT = Path(__file__).parents[2]
SOURCES = (
    "export/tensorrt/build_worker.py",
    "export/tensorrt/builder.py",
    "export/tensorrt/engine.py",
    "export/tensorrt/layer_types.py",
    "imp_trt/backends/engine.py",
    "imp_trt/backends/engine_canvas.py",
    "imp_trt/backends/engine_arrays.py",
    "imp_trt/backends/engine_core.py",
    "imp_trt/backends/engine_loading.py",
    "imp_trt/backends/tensorrt.py",
    "plugins/python_plugin.py",
    "plugins/registration.py",
    "plugins/instance_mask_projection/plugin.py",
    "plugins/multilevel_roi_align/plugin.py",
)
"""What runs with every TensorRT."""

OPTIONAL = {"destroy", "get_valid_tactics", "get_workspace_size"}
"""Methods of plugins whose default the bindings take; a call of any other that is missing is a failure."""

MODULE = "module"
# A kind is MODULE, "class C", "C" (an object of it), "list C", "method C.m", "unbound C.m" or "function f".
_PARAMETERS = {
    "trt": MODULE,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "registry": "IPluginRegistry",
    "collection": "list PluginField",
    "in_out": "list DynamicPluginTensorDesc",
    "input_desc": "list PluginTensorDesc",
}
_ELSEWHERE = {("plugins/python_plugin.py", "builder"): "IExprBuilder"}
_ATTRIBUTES = {"trt": MODULE, "_trt": MODULE, "context": "IExecutionContext"}
# Where the docstring does not say, or says it in C++.
_RETURNED = {
    "get_plugin_registry": "IPluginRegistry",
    "OnnxParser.get_error": "ParserError",
    "IPluginRegistry.all_creators": "list IPluginCreatorV3One",
}
_ONLY_RTX = ("_set_compute_capabilities",)  # functions, called with TensorRT-RTX only

_TYPES = ROOT / "plugins/tensorrt_types.py"
_MODULE_TYPE = "TensorRT"


def protocols() -> dict[str, list[str]]:
    """Class of TensorRT -> names of its protocol in imp_trt.plugins.tensorrt_types, for both libraries.

    Lines with the comment ``# tensorrt`` or ``# tensorrt_rtx`` are left out: only one library has the name.
    """
    text = _TYPES.read_text()
    lines = text.splitlines()
    names: dict[str, list[str]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            members = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.AnnAssign)]
            both = [n for n in members if "# tensorrt" not in lines[(n.end_lineno or n.lineno) - 1]]
            found = [n.name if isinstance(n, ast.FunctionDef) else ast.unparse(n.target) for n in both]
            names[node.name] = [name for name in found if name[0] != "_"]
    return names


def annotated(annotation: str) -> str | None:
    """The kind of what has an annotation with a class of imp_trt.plugins.tensorrt_types."""
    annotation = annotation.removesuffix(" | None")
    if annotation == _MODULE_TYPE:
        return MODULE
    if annotation == "PluginFieldCollection":
        return "list PluginField"
    for sequence in ("Sequence[", "list["):
        if annotation.startswith(sequence):
            item = annotated(annotation.removeprefix(sequence).removesuffix("]"))
            return item and f"list {item}"
    return annotation if annotation in protocols() and annotation != "Member" else None


class Use(NamedTuple):
    """Something of TensorRT in a line of a source: owner is "module" or a class."""

    where: str
    owner: str
    name: str


class Found(NamedTuple):
    """What `read` returns.

    Attributes:
        uses: names that must be there.
        guarded: names that the source asks for first, with what the guard is.
        wrong: calls whose arguments fit no overload.
    """

    uses: set[Use]
    guarded: set[Use]
    wrong: list[str]


def read(trt: Any, sources: tuple[str, ...] = SOURCES) -> Found:
    found = Found(set(), set(), [])
    for source in sources:
        _Reader(trt, source, found).visit(ast.parse((ROOT / source).read_text()))
    return found


def missing(trt: Any, sources: tuple[str, ...] = SOURCES) -> list[str]:
    """The used names that the module lacks, and the calls that it does not take."""
    found = read(trt, sources)
    lacking = [f"{use.where}: {use.owner}.{use.name}" for use in found.uses if not _has(trt, use)]
    return sorted({*lacking, *found.wrong})


def guarded(trt: Any, sources: tuple[str, ...] = SOURCES) -> list[str]:
    """The names that the module lacks and the sources ask for before they use them."""
    names = {f"{use.owner}.{use.name}" for use in read(trt, sources).guarded if not _has(trt, use)}
    from imp_trt.artifacts.engine_info import HARDWARE_COMPATIBILITY  # build_worker asks with getattr

    levels = [Use("", "HardwareCompatibilityLevel", name.upper()) for name in HARDWARE_COMPATIBILITY]
    return sorted(names | {f"{use.owner}.{use.name}" for use in levels if not _has(trt, use)})


def unknown_members(trt: Any) -> list[str]:
    """Members of enumerations that the sources know by their names as text, and that the module lacks."""
    from imp_trt.backends import engine_loading
    from imp_trt.export.tensorrt import layer_types
    from imp_trt.plugins import python_plugin

    named = {
        "LayerType": (*layer_types._COMPUTING, "DEQUANTIZE"),
        "DataType": {*layer_types.NETWORK_NAMES, *python_plugin._ELEMENTS, *engine_loading._DTYPES},
        "PluginFieldType": {"CHAR", *(kind for kind, _ in python_plugin._FIELD_TYPES.values())},
        "TensorLocation": ("DEVICE",),
        "TensorFormat": ("LINEAR",),
        "TensorIOMode": ("INPUT", "OUTPUT"),
    }
    there = {owner: getattr(trt, owner).__members__ for owner in named}
    there["Severity"], named["Severity"] = trt.ILogger.Severity.__members__, engine_loading._LEVELS
    return [f"{o}.{name}" for o, names in named.items() for name in sorted(names) if name not in there[o]]


def unimplemented(trt: Any) -> list[str]:
    """The methods of the plugin interfaces that the Python plugins and creators do not have themselves."""
    from imp_trt.plugins.python_plugin import _creator_class, _interfaces, _plugin_class

    kinds = [(_plugin_class(trt), _interfaces(trt)), (_creator_class(trt), (trt.IPluginCreatorV3One,))]
    lacking = []
    for ours, interfaces in kinds:
        for interface in interfaces:
            for name, value in vars(interface).items():
                own = any(name in vars(kind) for kind in ours.__mro__ if "imp_trt" in kind.__module__)
                if callable(value) and name[0] != "_" and not own and name not in OPTIONAL:
                    lacking.append(f"{interface.__name__}.{name} is left to the bindings")
    return lacking


def _has(trt: Any, use: Use) -> bool:
    owner = trt if use.owner == MODULE else getattr(trt, use.owner, None)
    return owner is not None and hasattr(owner, use.name)


class _Reader(ast.NodeVisitor):
    """Reads one source; `kind` determines what an expression is and notes the names in it."""

    def __init__(self, trt: Any, source: str, found: Found) -> None:
        self._trt, self._source, self._found = trt, source, found
        self._known: dict[str, str] = {}
        self._ours: dict[str, str] = {}  # function of this source -> annotation of what it returns

    # ---- statements ----

    def visit_Module(self, node: ast.Module) -> None:
        functions = [n for n in ast.walk(node) if isinstance(n, ast.FunctionDef)]
        self._ours = {f.name: ast.unparse(f.returns) for f in functions if f.returns is not None}
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in _ONLY_RTX:
            return
        outer, self._known = self._known, dict(self._known)
        for parameter in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            annotation = ast.unparse(parameter.annotation) if parameter.annotation is not None else "Any"
            by_name = self._by_name(parameter.arg) if annotation in ("Any", "Sequence[Any]") else None
            self._bind(parameter.arg, by_name or annotated(annotation))
        self.generic_visit(node)
        self._known = outer

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in (self.kind(base) or "" for base in node.bases):
            if base.startswith("class "):
                self._overrides(node, base.removeprefix("class "))
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        kind = self.kind(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._bind(target.id, kind or self._made_here(target.id, node.value))
            self.visit(target)
        if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
            for target, value in zip(node.targets[0].elts, node.value.elts, strict=True):
                if isinstance(target, ast.Name):
                    self._bind(target.id, self.kind(value))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        kind = None if node.value is None else self.kind(node.value)
        if isinstance(node.target, ast.Name):
            self._bind(node.target.id, annotated(ast.unparse(node.annotation)) or kind)

    def visit_For(self, node: ast.For) -> None:
        self._loop(node.target, node.iter)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def visit_expr(self, node: ast.expr) -> None:
        self.kind(node)

    def visit(self, node: ast.AST) -> Any:
        return self.kind(node) if isinstance(node, ast.expr) else super().visit(node)

    def _bind(self, name: str, kind: str | None) -> None:
        if kind is None:
            self._known.pop(name, None)
        else:
            self._known[name] = kind

    def _by_name(self, name: str) -> str | None:
        return _ELSEWHERE.get((self._source, name)) or _PARAMETERS.get(name)

    def _made_here(self, name: str, value: ast.expr) -> str | None:
        """For what a function of the same module returns."""
        function = value.func if isinstance(value, ast.Call) else None
        returns = self._ours.get(function.id) if isinstance(function, ast.Name) else None
        if returns is None:
            return None
        return annotated(returns) or (self._by_name(name) if returns in ("Any", "object") else None)

    def _loop(self, target: ast.expr, over: ast.expr) -> None:
        kind = self.kind(over)
        if isinstance(target, ast.Name):
            self._bind(target.id, kind.removeprefix("list ") if kind and kind.startswith("list ") else None)

    def _overrides(self, node: ast.ClassDef, owner: str) -> None:
        base = getattr(self._trt, owner)
        methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
        for name in (name for name, value in vars(base).items() if _is_method(name, value)):
            if name not in methods:
                self._found.wrong.append(f"{self._where(node)}: {owner}.{name} is not implemented")
                continue
            overloads = parameters(str(getattr(base, name).__doc__), name)
            ours = len(methods[name].args.args) - 1
            if overloads and ours not in [len(one) for one in overloads]:
                where = self._where(methods[name])
                self._found.wrong.append(f"{where}: {owner}.{name} with {ours} parameters")

    # ---- expressions ----

    def kind(self, node: ast.expr) -> str | None:
        method = getattr(self, f"_kind_of_{type(node).__name__}", None)
        if method is not None:
            return method(node)
        for child in _expressions(node):
            self.kind(child)
        return None

    def _kind_of_Name(self, node: ast.Name) -> str | None:
        return self._known.get(node.id)

    def _kind_of_Attribute(self, node: ast.Attribute) -> str | None:
        base = self.kind(node.value)
        if base is None:
            return _ATTRIBUTES.get(node.attr)
        return self._attribute(base, node.attr, node)

    def _attribute(self, base: str, name: str, node: ast.AST) -> str | None:
        if " " in base and not base.startswith("class "):
            return None
        owner = base.removeprefix("class ")
        self._found.uses.add(Use(self._where(node), owner, name))
        holder = self._trt if owner == MODULE else getattr(self._trt, owner, None)
        value = getattr(holder, name, None)
        if owner == MODULE:
            return f"class {name}" if isinstance(value, type) else f"function {name}"
        if isinstance(value, property):
            return self._returned(f"{owner}.{name}", str(value.fget.__doc__))
        if callable(value) and not isinstance(value, type):
            return f"{'unbound' if base != owner else 'method'} {owner}.{name}"
        return None if value is None else type(value).__name__

    def _kind_of_Call(self, node: ast.Call) -> str | None:
        if isinstance(node.func, ast.Name) and node.func.id == "getattr":
            return self._getattr(node)
        function = self.kind(node.func) or ""
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.kind(argument)
        what, _, name = function.partition(" ")
        if what == "class":
            self._check(node, f"{name}.__init__", 0)
            return name
        if what in ("method", "unbound", "function"):
            return self._returned(name, self._check(node, name, int(what == "unbound")))
        return None

    def _returned(self, name: str, docstring: str) -> str | None:
        kind = _RETURNED.get(name) or returned(docstring) or ""
        return kind if isinstance(getattr(self._trt, kind.removeprefix("list "), None), type) else None

    def _getattr(self, node: ast.Call) -> str | None:
        base = self.kind(node.args[0])
        name = node.args[1]
        if base is None or not isinstance(name, ast.Constant):
            return None
        if len(node.args) == 2:
            return self._attribute(base, name.value, node)
        self._found.guarded.add(Use(self._where(node), base.removeprefix("class "), name.value))
        return None

    def _check(self, node: ast.Call, name: str, first: int) -> str:
        """Notes a call that fits no overload; the function's docstring."""
        holder: Any = self._trt
        for part in name.split("."):
            holder = getattr(holder, part, None)
        text = str(holder.__doc__)
        overloads = parameters(text, name.rpartition(".")[2])
        if not any(isinstance(argument, ast.Starred) for argument in node.args) and overloads:
            given = len(node.args) - first
            names = {keyword.arg for keyword in node.keywords}
            if not any(_takes(overload, given, names) for overload in overloads):
                call = ast.unparse(node)
                self._found.wrong.append(f"{self._where(node)}: {call} fits no overload of {name}")
        return text

    def _kind_of_Subscript(self, node: ast.Subscript) -> str | None:
        kind = self.kind(node.value)
        self.kind(node.slice)
        if kind is None or not kind.startswith("list "):
            return None
        return kind if isinstance(node.slice, ast.Slice) else kind.removeprefix("list ")

    def _comprehension(self, node: Any) -> str | None:
        outer, self._known = self._known, dict(self._known)
        for generator in node.generators:
            self._loop(generator.target, generator.iter)
            for condition in generator.ifs:
                self.kind(condition)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        kinds = [self.kind(part) for part in parts]
        self._known = outer
        return f"list {kinds[0]}" if len(kinds) == 1 and kinds[0] else None

    _kind_of_ListComp = _kind_of_SetComp = _kind_of_GeneratorExp = _kind_of_DictComp = _comprehension

    def _kind_of_BoolOp(self, node: ast.BoolOp) -> str | None:
        return next(filter(None, [self.kind(value) for value in node.values]), None)

    def _where(self, node: ast.AST) -> str:
        return f"{self._source}:{getattr(node, 'lineno', 0)}"


def _is_method(name: str, value: Any) -> bool:
    return name[0] != "_" and callable(value) and not isinstance(value, type) and name.islower()


def _takes(overload: Any, given: int, names: set[str | None]) -> bool:
    """Whether an overload takes so many positional arguments and these keywords."""
    rest = overload[given:]
    required = {parameter.name for parameter in rest if not parameter.optional}
    return given <= len(overload) and required <= names <= {parameter.name for parameter in rest}


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions right below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        else:
            yield from _expressions(child)
