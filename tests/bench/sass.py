# SPDX-License-Identifier: Apache-2.0
"""What the compiler makes of the kernels: registers, spills, shared memory and instructions, without a GPU.

    python -m tests.bench.sass [--arch sm_87 sm_90 sm_120] [--op instance_mask_projection] [--json FILE]

Compiles with nvcc, or NVRTC where there is no nvcc, and reads the machine code with nvdisasm.

"executed" is counted in the code of the loop in question, by `Code.executed`: from its target to its backward
branch the longest way. A branch over nothing but corrections (of a cell that is not finite, of a division) is
taken, and a loop inside counts as often as the model says:

- multilevel_roi_align: one output of 2 x 2 samples, the loop with 16 reads of cells (hwc8: of 8 outputs).
- instance_mask_projection, forward: one box on the 8 pixels of a thread, in a group of 4 boxes. "draw" is the
  loop over the prepared boxes. "all" adds a quarter of what a warp does to prepare its box: the loop over
  groups without drawing. "wide": the box is as wide as the tile and reads 9 lines of the mask; "narrow": it
  lies in half of the tile and reads 19.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from imp_trt.cuda import nvrtc
from imp_trt.errors import BuildError, DependencyMissing

OPS = ("instance_mask_projection", "multilevel_roi_align", "frame_fit")
ARCHITECTURES = ("sm_87", "sm_90", "sm_120")
PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
WHEEL = "nvidia-cuda-nvdisasm"
LINES = {"wide": 9, "narrow": 19}
GROUP = 4  # boxes and warps

_FUNCTION = re.compile(r"\.text\.(\S+):")
_LABEL = re.compile(r"(\.L_\S+):")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]+\*/\s+(.*?);")
_TARGET = re.compile(r"\bBRA\b.*`\((\.L_\S+)\)")
_SHARED_WORK = re.compile(r"\b(LDG|LDS|STG|STS|VOTE|SHFL|BAR)\b")
_NOT_FINITE = re.compile(r"\bFSETP\b.*\|, 3\.4028")


@dataclass
class Code:
    """The instructions of a kernel in their order."""

    name: str
    text: list[str] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    spills: int = 0  # instructions that spill or refill

    def target(self, i: int) -> int | None:
        """Where instruction i branches to."""
        found = _TARGET.search(self.text[i])
        return self.labels.get(found[1]) if found else None

    @cached_property
    def loops(self) -> list[tuple[int, int]]:
        """(target, backward branch) of every loop of the kernel proper, by their targets.

        A branch back from behind the last EXIT belongs to code that was moved out of the way.
        """
        end = max(i for i, text in enumerate(self.text) if re.search(r"\bEXIT\b", text))
        found = []
        for i in range(end):
            target = self.target(i)
            if target is not None and target < i:
                found.append((target, i))
        return sorted(found)

    def count(self, loop: tuple[int, int], pattern: str) -> int:
        return sum(bool(re.search(pattern, text)) for text in self.text[loop[0] : loop[1] + 1])

    def inside(self, loop: tuple[int, int]) -> list[tuple[int, int]]:
        """The loops directly inside another."""
        within = [
            other for other in self.loops if loop[0] <= other[0] and other[1] <= loop[1] and other != loop
        ]
        return [a for a in within if not any(b[0] <= a[0] and a[1] <= b[1] and a != b for b in within)]

    def executed(self, loop: tuple[int, int], times: Callable[[tuple[int, int]], int | None]) -> int:
        """Instructions of one pass; `times` says how often a loop inside runs, None if no way leads there."""
        inner = dict(self.inside(loop))
        longest: dict[int, int] = {loop[0]: 0}
        i = loop[0]
        while i <= loop[1]:
            way = longest.get(i)
            cost, after = 1, i + 1
            if i in inner:
                repeated = times((i, inner[i]))
                if repeated is None:
                    way = None
                else:
                    cost, after = repeated * self.executed((i, inner[i]), times), inner[i] + 1
            if way is not None and not self.text[i].startswith("CALL"):
                for step in self._next(i, after):
                    longest[step] = max(longest.get(step, 0), way + cost)
            i = after
        return longest[loop[1] + 1]

    def _next(self, i: int, after: int) -> Iterator[int]:
        target = self.target(i) if after == i + 1 else None
        if target is None or target <= i or ".DIV" in self.text[i]:  # .DIV: the warp has come apart
            yield after
            return
        yield target
        if ".CONV" in self.text[i]:  # the warp is together
            return
        skipped = self.text[i + 1 : target]
        unconditional = re.match(r"BRA `", self.text[i])
        correction = any("CALL" in text or _NOT_FINITE.search(text) for text in skipped)
        if not unconditional and not (correction and not any(map(_SHARED_WORK.search, skipped))):
            yield after


@dataclass
class Row:
    """A kernel on an architecture; bytes and numbers of instructions."""

    arch: str
    kernel: str
    registers: int
    shared: int
    spills: int
    instructions: int
    executed: dict[str, int]


def find_nvcc() -> Path | None:
    return _find("nvcc")


def find_nvdisasm() -> Path | None:
    """nvdisasm on PATH, of a CUDA installation, or from its wheel."""
    found = _find("nvdisasm")
    if found:
        return found
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == "nvdisasm"), None)


def _find(tool: str) -> Path | None:
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [Path(home, "bin", tool) for home in [*homes, "/usr/local/cuda"] if home]
    on_path = shutil.which(tool)
    return Path(on_path) if on_path else next((place for place in places if place.is_file()), None)


def missing() -> str | None:
    """What this script needs and does not find, and how to get it."""
    if find_nvdisasm() is None:
        return f"nvdisasm is not on PATH and not below CUDA_HOME: pip install {WHEEL}"
    if find_nvcc() is None:
        try:
            nvrtc.version()
        except DependencyMissing as error:
            return f"there is neither nvcc nor NVRTC: {error}"
    return None


def compile_op(op: str, arch: str) -> bytes:
    """The cubin of all kernels of an operator."""
    nvcc = find_nvcc()
    if nvcc is None:
        return nvrtc.compile_kernels(op, arch)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "kernels.cubin")
        source = PLUGINS / op / f"{op}.cu"
        command = [
            str(nvcc),
            *nvrtc.FLAGS,
            f"-arch={arch}",
            "-cubin",
            f"-I{PLUGINS}",
            str(source),
            "-o",
            str(out),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"nvcc cannot compile {source.name} for {arch}", got=done.stderr[:2000])
        return out.read_bytes()


def disassemble(cubin: bytes) -> list[Code]:
    """The kernels in a cubin."""
    tool = find_nvdisasm()
    if tool is None:
        raise DependencyMissing("nvdisasm", fix=f"pip install {WHEEL}")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "kernels.cubin")
        image.write_bytes(cubin)
        if not os.access(tool, os.X_OK):  # some installers leave out the permission
            tool = Path(shutil.copy(tool, folder))
            tool.chmod(0o755)
        listing = subprocess.run(
            [str(tool), "-c", str(image)], capture_output=True, text=True, check=True
        ).stdout
    found: list[Code] = []
    for line in listing.splitlines():
        if match := _FUNCTION.match(line):
            found.append(Code(match[1]))
        elif match := _LABEL.match(line):
            if found:
                found[-1].labels[match[1]] = len(found[-1].text)
        elif found and (match := _INSTRUCTION.match(line)):
            found[-1].text.append(match[1].strip())
            found[-1].spills += "SpillRefill" in match[1]
    return found


def sections(cubin: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Name, size and content of the sections of an ELF file of 64 bits."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(cubin[at : at + size], "little")

    table, each, count, names = number(0x28, 8), number(0x3A, 2), number(0x3C, 2), number(0x3E, 2)
    text = number(table + names * each + 0x18, 8)
    for head in range(table, table + count * each, each):
        begin = text + number(head, 4)
        start, size = number(head + 0x18, 8), number(head + 0x20, 8)
        name = cubin[begin : cubin.index(b"\0", begin)].decode()
        yield name, size, b"" if number(head + 4, 4) == 8 else cubin[start : start + size]  # 8: no content


def resources(cubin: bytes, arch: str) -> dict[str, tuple[int, int]]:
    """Registers and bytes of shared memory of each kernel, without the 1 KB that newer GPUs add."""
    added = 1024 if int(arch.partition("_")[2]) >= 90 else 0
    listed = list(sections(cubin))
    symbols = next(content for name, _, content in listed if name == ".symtab")
    strings = next(content for name, _, content in listed if name == ".strtab")
    info = next(content for name, _, content in listed if name == ".nv.info")
    shared = {
        name[len(".nv.shared.") :]: size - added for name, size, _ in listed if name.startswith(".nv.shared.")
    }
    found, at = {}, 0
    while at + 4 <= len(info):
        kind, attribute, size = info[at], info[at + 1], int.from_bytes(info[at + 2 : at + 4], "little")
        if (kind, attribute) == (4, 0x2F):  # EIATTR_REGCOUNT: symbol, registers
            symbol, registers = (int.from_bytes(info[at + k : at + k + 4], "little") for k in (4, 8))
            begin = int.from_bytes(symbols[24 * symbol : 24 * symbol + 4], "little")
            name = strings[begin : strings.index(b"\0", begin)].decode()
            found[name] = (registers, shared.get(name, 0))
        at += 4 + (size if kind == 4 else 0)
    return found


def executed(code: Code) -> dict[str, int]:
    """Instructions that are executed for what a loop works on; empty for kernels without a model."""
    if code.name.startswith("imp_multilevel_roi_align_"):
        innermost = [
            loop for loop in code.loops if not code.inside(loop) and code.count(loop, r"\bLDG\b") == 16
        ]
        outputs = 8 if "_hwc8_" in code.name else 1  # of a pass
        return {"output": round(code.executed(innermost[0], lambda _: 0) / outputs)} if innermost else {}
    if not re.match(r"imp_mask_projection_(bilinear|nearest)_", code.name):
        return {}
    # The loop over groups: two barriers, and a loop that draws: it only reads shared memory.
    draws = [
        loop
        for loop in code.loops
        if not code.inside(loop)
        and code.count(loop, r"\bFMNMX\b") >= 8
        and not code.count(loop, r"\b(LDG|STS|BAR)\b")
    ]
    if len(draws) != 1:
        return {}
    draw = draws[0]
    groups = [a for a in code.loops if a[0] < draw[0] and draw[1] < a[1] and code.count(a, r"\bBAR\b") == 2]
    group = min(groups, key=lambda loop: loop[1] - loop[0])
    lines = [a for a in code.inside(group) if code.count(a, r"\bLDG\b") and code.count(a, r"\bSTS\b")]
    if len(lines) != 2:
        return {}
    wide, narrow = sorted(
        lines, key=lambda loop: code.count(loop, r"\bLDS\b")
    )  # four or eight lines' numbers
    result = {"draw": code.executed(draw, lambda _: 0)}
    reads = _reads()
    for box, own, batch in (("wide", wide, reads // 2), ("narrow", narrow, reads)):
        passes = -(-LINES[box] // batch)

        def times(loop: tuple[int, int], own: tuple[int, int] = own, passes: int = passes) -> int | None:
            return 0 if loop == draw else passes if loop == own else None

        result[f"all, {box}"] = round(code.executed(group, times) / GROUP) + result["draw"]
    return result


def _reads() -> int:
    """Pairs of cells that a lane reads in a pass over lines."""
    source = (PLUGINS / "instance_mask_projection" / "prepare_box.h").read_text()
    found = re.search(r"constexpr int kReads = (\d+);", source)
    if found is None:
        raise BuildError("kReads in prepare_box.h", got="no such line")
    return int(found[1])


def measure(ops: Sequence[str], architectures: Sequence[str]) -> list[Row]:
    rows = []
    for op in ops:
        for arch in architectures:
            cubin = compile_op(op, arch)
            found = resources(cubin, arch)
            for code in sorted(disassemble(cubin), key=lambda code: code.name):
                registers, shared = found[code.name]
                size = max(i for i, text in enumerate(code.text) if not re.match(r"(NOP|BRA)\b", text)) + 1
                rows.append(Row(arch, code.name, registers, shared, code.spills, size, executed(code)))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES), metavar="sm_XX")
    parser.add_argument("--op", nargs="+", default=list(OPS), choices=OPS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if reason := missing():
        sys.exit(reason)
    rows = measure(options.op, options.arch)
    print(f"{'kernel':46} {'arch':6} {'regs':>4} {'shared':>6} {'spills':>6} {'size':>5}  executed")
    for row in rows:
        counts = "; ".join(f"{what} {count}" for what, count in row.executed.items())
        kernel = f"{row.kernel:46} {row.arch:6} {row.registers:4} {row.shared:6} {row.spills:6}"
        print(f"{kernel} {row.instructions:5}  {counts}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
