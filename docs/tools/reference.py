# SPDX-License-Identifier: Apache-2.0
"""Pages that are written from the sources: options from the parsers, fields from the manifest's schema,
and the public names of the packages.

python -m docs.tools.reference     rewrites docs/commands.md, docs/manifest.md and docs/api; a test verifies
that they are current
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from imp_trt import errors
from imp_trt.__main__ import COMMANDS
from imp_trt.cli.common import EXIT_CODES, help_text

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "imp_trt" / "artifacts" / "manifest.schema.json"
NETWORK_SCHEMA = SCHEMA.with_name("network_manifest.schema.json")
WRITTEN = "<!-- Written by python -m docs.tools.reference; changes are lost with the next run. -->"

COMMANDS_INTRO = """\
Results go to stdout, progress and messages to stderr. `python -m imp_trt` lists the commands. Options that
all commands have:

| Option | Meaning |
|---|---|
| `-h`, `--help` | print the options and examples |
| `--json` | print the result as JSON on stdout |
| `-q`, `--quiet` | no progress; only warnings on stderr |
| `-v`, `--verbose` | more log messages on stderr; `-vv`: tracebacks |
| `--version` | print the version |
"""

EXIT_CODES_NOTE = "A recording from a camera that Ctrl-C ends exits with 0."

MANIFEST_INTRO = """\
Every artifact has a manifest: `NAME.onnx.json` or `NAME.engine.json`. It describes the contents, the
input and the outputs of the artifact, so that a program needs no other information.
[manifest.schema.json](../imp_trt/artifacts/manifest.schema.json) is its JSON Schema (2020-12), in the
package as `imp_trt/artifacts/manifest.schema.json`:

```python
import json
from importlib.resources import files

schema = json.loads((files("imp_trt") / "artifacts" / "manifest.schema.json").read_text())
print(schema["title"])
```

In Python, `imp_trt.artifacts.read_manifest("NAME.onnx")` reads and checks the manifest of an artifact;
`imp-inspect NAME.onnx` prints its contents. Unknown and missing fields are errors, and so is another
`schema_version`. If a manifest was changed after it was written, its checksum differs and a warning is
logged; class names and colors may be edited. A manifest protects against mix-ups, not against an attacker:
[Security](../SECURITY.md).
"""

NETWORK_INTRO = """\
An artifact that `imp-export` made of a [third-party ONNX file](onnx_files.md), for `imp_trt.Engine`, has a
manifest with another layout. It has a field `contract`, which other manifests do not have, and the schema
[network_manifest.schema.json](../imp_trt/artifacts/network_manifest.schema.json) in the same folder.
`imp_trt.artifacts.read_network(path).manifest` and `imp_trt.Engine(path).manifest` read it; `path` is that
of the artifact.
"""


def commands_page() -> str:
    """Text of docs/commands.md."""
    codes = "\n".join(f"| {code} | {text} |" for code, text in EXIT_CODES.items())
    codes = f"## Exit codes\n\n| Code | Meaning |\n|---|---|\n{codes}\n\n{EXIT_CODES_NOTE}"
    parts = [WRITTEN, "# Commands", COMMANDS_INTRO, codes]
    for name, module in COMMANDS.items():
        parts.append(_command(name, import_module(module).parser()))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    epilog = str(parser.epilog or "")
    examples = re.search(r"examples:\n((?:  .*\n?)+)", epilog)
    parts = [f"## {name}", str(parser.description)]
    if examples:
        lines = "\n".join(line[2:] for line in examples[1].splitlines())
        parts.append(f"```text\n{lines}\n```")
    tables = [table for group in parser._action_groups if (table := _table(group))]
    return "\n\n".join(parts + tables)


def _table(group: argparse._ArgumentGroup) -> str:
    actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS and a.dest != "help"]
    title = {"positional arguments": "Argument", "options": "Option"}.get(group.title or "", "Option")
    if not actions or group.title == "common options":
        return ""
    rows = [f"| {_name(action)} | {_escaped(help_text(action).replace('%%', '%'))} |" for action in actions]
    header = "" if group.title in ("positional arguments", "options") else f"**{group.title}**\n\n"
    return header + "\n".join([f"| {title} | Meaning |", "|---|---|", *rows])


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    value = "" if action.nargs == 0 else _value(action)
    return ", ".join(f"`{flag}`" for flag in action.option_strings) + (f" `{value}`" if value else "")


def _value(action: argparse.Action) -> str:
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    name = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    return f"{name} ..." if action.nargs == "+" else name


def _escaped(text: str) -> str:
    # Outside of code, <, * and | mean something in Markdown.
    text = text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("_", "\\_")
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]+)", r"`\1`", text)


def manifest_page() -> str:
    """Text of docs/manifest.md."""
    return (
        f"{WRITTEN}\n\n# Manifest\n\n{MANIFEST_INTRO}\n## Fields\n\n{_field_table(SCHEMA)}\n\n"
        f"## Third-party networks\n\n{NETWORK_INTRO}\n{_field_table(NETWORK_SCHEMA)}\n"
    )


def _field_table(schema: Path) -> str:
    fields = _fields(json.loads(schema.read_text()), "")
    rows = [f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in fields]
    return "\n".join(["| Field | Type | Meaning |", "|---|---|---|", *rows])


def _fields(schema: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in schema["properties"].items():
        yield prefix + name, _kind(field), field.get("description", "")
        for nested in (field, *field.get("anyOf", [])):
            if "properties" in nested:
                yield from _fields(nested, f"{prefix}{name}.")
        if "properties" in field.get("items", {}):
            yield from _fields(field["items"], f"{prefix}{name}[].")


def _kind(field: dict[str, Any]) -> str:
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_kind(option) for option in field["anyOf"])
    kind = field["type"]
    if isinstance(kind, list):
        return " or ".join(kind)
    return f"array of {_kind(field['items'])}" if kind == "array" else str(kind)


API_INTRO = """\
`import imp_trt` is light: it imports none of torch, onnxruntime, tensorrt and cv2. Public names are those
on these pages, imported from the packages that they are listed under; everything else may change. Renamed
names keep working for one version, with a warning.

Arrays are NumPy's, images BGR `[h, w, 3]` uint8, boxes xyxy in pixels. Errors are those of
[imp_trt.errors](errors.md).
"""


def public_names(package: str) -> dict[str, str]:
    """Public name -> module that defines it, from the stub of a package; former names are left out."""
    folder = ROOT.joinpath(*package.split("."))
    stub = ast.parse((folder / "__init__.pyi").read_text())
    found = {}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{package}.{node.module}" for alias in node.names}
    return found


def packages() -> list[str]:
    """Packages with public names, the root last."""
    linked = ("export", "plugins", "train")  # Path.rglob does not enter links
    folders = [ROOT / "imp_trt", *(ROOT / "imp_trt" / name for name in linked)]
    stubs = [path for folder in folders for path in folder.rglob("__init__.pyi")]
    names = {".".join(path.parent.relative_to(ROOT).parts) for path in stubs}
    return [*sorted(names - {"imp_trt"}), "imp_trt"]


def api_pages() -> dict[str, str]:
    """Page in docs/ -> text, one for each package below imp_trt; each name is on one page."""
    documented: dict[str, str] = {}  # defining module and name -> where it is documented
    sections: dict[str, list[str]] = {}
    for package in packages():
        page = package.split(".")[1] if "." in package else "index"
        lines = [f"Names of `{package}`:"] if package.count(".") > 1 else []
        for name, module in public_names(package).items():
            key = f"{_defining(module, name)}.{name}"
            if key in documented:
                lines.append(f"- `{package}.{name}` is [{documented[key]}][]")
            else:
                documented[key] = f"{package}.{name}"
                lines.append(f"\n::: {package}.{name}")
        sections.setdefault(page, []).append("\n".join(lines))
    pages = {f"api/{page}.md": _api_page(page, parts) for page, parts in sections.items() if page != "index"}
    classes = [n for n, v in vars(errors).items() if isinstance(v, type) and v.__module__ == errors.__name__]
    body = "".join(f"\n::: imp_trt.errors.{name}\n" for name in classes)
    pages["api/errors.md"] = _api_page(
        "errors", [f"What to do: [Troubleshooting](../troubleshooting.md).\n{body}"]
    )
    listed = [
        f"| [imp_trt.{Path(name).stem}]({Path(name).name}) | {_summary(Path(name).stem)} |"
        for name in sorted(pages)
    ]
    table = "\n".join(["| Package | Content |", "|---|---|", *listed])
    pages["api/index.md"] = (
        "\n\n".join([WRITTEN, "# Python API", API_INTRO, table, *sections["index"]]) + "\n"
    )
    return pages


def _defining(module: str, name: str) -> str:
    """Follow a name through packages that list it to the module that defines it."""
    folder = ROOT.joinpath(*module.split("."))
    if (folder / "__init__.pyi").is_file():
        return _defining(public_names(module)[name], name)
    return module


def _summary(name: str) -> str:
    path = ROOT / "imp_trt" / name
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def _api_page(name: str, parts: list[str]) -> str:
    return "\n\n".join([WRITTEN, f"# imp_trt.{name}", _summary(name), *parts]) + "\n"


def pages() -> dict[str, str]:
    """Page in docs/ -> its text."""
    return {"commands.md": commands_page(), "manifest.md": manifest_page(), **api_pages()}


def main() -> None:
    """Rewrite the pages."""
    for name, text in pages().items():
        path = ROOT / "docs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
