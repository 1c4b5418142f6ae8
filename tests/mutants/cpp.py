"""The mutants of the C++ engine, and how to build and test them.

Each mutant differs from the source in one operator, number, condition or statement. Code that decides only how fast
something is computed, and code of other machines than this one, is left alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from mutations import Mutant  # type: ignore[import-not-found]

__all__ = ["TESTS", "Engine", "files", "mutants"]

CSRC = Path("src/retrograde/kernels/csrc")
TESTS = (
    "tests/kernels/test_naive.py",
    "tests/kernels/test_cpp.py",
    "tests/kernels/test_native.py",
    "tests/flow/test_adjoint.py",
    "tests/kernels/test_engine_refusals.py",
    "tests/nn/test_streaming.py",
    "tests/kernels/test_allocation.py",
    "tests/kernels/test_shapes.py",
)  # in this order: quick ones first
OPERATORS = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "&&": "||", "||": "&&",
    "+": "-", "-": "+", "*": "+", "/": "*", "%": "*", "+=": "-=", "-=": "+=", "*=": "+=",
}  # fmt: skip
TOKENS = re.compile(r"(?<= )(<=?|>=?|==|!=|&&|\|\||\+=?|-=?|\*=?|/|%)(?= )|(?<![\w.])\d+(?![\w.])|\btrue\b|\bfalse\b")
STATEMENT = re.compile(
    r"^ +(?!return|using|const|static|if|for|while|else|case)([\w.\->\[\]():]+)( [-+*]?= .*|\(.*\));$"
)
CONDITION = re.compile(r"\bif \((?!constexpr)([^()]*(?:\([^()]*\)[^()]*)*)\) ")
# decide only which way is faster, or what a benchmark measures
SPEED = re.compile(
    r"\b(step_cycles|choose_partition|padded|advise_huge_pages|prefetch_distance|panels_at_once|groups_at_once|leave"
    r"|processor|relax|torchs_team|run_flops|flops|release_scratch|AdjointRecursion|kept_of)\("
)
FAST_LINE = re.compile(
    r"prefetch|\bfar\b|k(RowBatch|BlockTiles|FarBytes|Depth|BarrierSpins|IdleSpins|HugePage|ScratchKept|CacheBytes|Rows)"
    r"\b.* = |unroll|Workspace<T> =|advise_huge_pages|release_scratch|memory_order|__builtin_cpu|packs =|static_assert"
)
ELSEWHERE = re.compile(r"aarch64|ARM64|NEON|clang|APPLE")


# quick to compile, with the contractions to a * b + c that the activations rely on
FLAGS = ("-std=c++17", "-O1", "-fexpensive-optimizations", "-ffp-contract=fast", "-fno-math-errno")
FLAGS += ("-fno-trapping-math", "-fPIC", "-fvisibility=hidden", "-w")
_AVX2 = ["-mavx2", "-mfma"]
_AVX512 = ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mprefer-vector-width=512"]
SETS = {"avx512": [*_AVX512, *_AVX2], "avx2": _AVX2, "portable": [], "neon": ["-DRETROGRADE_NEON"]}


def files() -> list[Path]:
    """The engine's sources, without the naive kernels, which the tests compare the others with."""
    return sorted(file for file in CSRC.iterdir() if file.suffix in (".hpp", ".cpp") and file.name != "naive.cpp")


def mutants(source: str) -> list[Mutant]:
    """All mutants of a C++ file that clang-format has laid out: binary operators have spaces on both sides."""
    return [mutant for number, line in _code(source.split("\n")) for mutant in _of_line(number, line)]


def _code(lines: list[str]) -> Iterator[tuple[int, str]]:
    """The lines that run on this machine and decide what is computed, without their comments."""
    conditions: list[list[bool]] = []  # of each #if: whether its present branch is ours, and whether one was before
    skip_until = ""
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            if line.startswith("#if"):
                ours = not ELSEWHERE.search(line)
                conditions.append([ours, ours])
            elif line.startswith(("#elif", "#else")):
                ours = not conditions[-1][1] and not ELSEWHERE.search(line)
                conditions[-1] = [ours, conditions[-1][1] or ours]
            elif line.startswith("#endif"):
                conditions.pop()
            continue
        indent = line[: len(line) - len(line.lstrip())]
        if skip_until and line == skip_until:
            skip_until = ""
            continue
        if not skip_until and SPEED.search(line) and line.rstrip().endswith("{"):
            skip_until = indent + "}"
        line = re.sub(r'"[^"]*"', lambda text: " " * len(text[0]), line.split("//")[0]).rstrip()
        ours = all(branch[0] for branch in conditions)
        if ours and not skip_until and not FAST_LINE.search(line) and "template" not in line:
            yield number, line


def _of_line(number: int, line: str) -> Iterator[Mutant]:
    def at(start: int, end: int, new: str) -> Mutant:
        columns = (len(line[:start].encode()), len(line[:end].encode()))
        return Mutant(number, columns[0], number, columns[1], line[start:end], new)

    for token in TOKENS.finditer(line):
        text = token[0]
        new = OPERATORS.get(text) or {"true": "false", "false": "true"}.get(text) or str(int(text) + 1)
        yield at(*token.span(), new)
    for condition in CONDITION.finditer(line):
        yield at(*condition.span(1), f"!({condition[1]})")
    if STATEMENT.match(line):
        yield at(len(line) - len(line.lstrip()), len(line), ";")


class Engine:
    """The engine of a source tree, built in pieces: only what a change touches is compiled again."""

    def __init__(self, tree: Path, objects: Path) -> None:
        import nanobind

        from retrograde import kernels

        self.tree, self.objects = tree, objects
        self.sets = list(kernels.info()["instruction_sets"])  # type: ignore[call-overload]
        self.compiler = shutil.which("c++") or sys.exit("there is no C++ compiler")
        machine = "-DRETROGRADE_ARM64" if "neon" in self.sets else "-DRETROGRADE_X86"
        inside = Path(nanobind.include_dir()).parent
        self.includes = [f"-I{inside / 'include'}", f"-I{inside / 'ext/robin_map/include'}", machine]
        self.includes += [f"-I{sysconfig.get_path('include')}"]
        objects.mkdir(parents=True, exist_ok=True)
        self._compile(inside / "src" / "nb_combined.cpp", "nanobind", "-DNDEBUG")
        for unit in ("module", "naive", "pool", *self.sets):
            if not self._unit(unit):
                sys.exit(f"{unit} does not compile without any mutant")
        self._link({})

    def build(self, changed: Path) -> bool:
        """Build with one changed file; False if it does not compile. Headers are compiled for the widest set only."""
        units = [changed.stem] if changed.suffix == ".cpp" and changed.stem != "isa" else [self.sets[0]]
        if changed.name in ("layer.hpp", "pool.hpp"):
            units += ["module", "naive", "pool"]
        replaced = {unit: f"{unit}.mutant" for unit in units}
        return all(self._unit(unit, out) for unit, out in replaced.items()) and self._link(replaced)

    def _unit(self, unit: str, out: str | None = None) -> bool:
        if unit in self.sets:
            return self._compile(self.tree / CSRC / "isa.cpp", out or unit, f"-DRETROGRADE_SET={unit}", *SETS[unit])
        return self._compile(self.tree / CSRC / f"{unit}.cpp", out or unit)

    def _compile(self, source: Path, out: str, *flags: str) -> bool:
        command = [self.compiler, *FLAGS, *self.includes, *flags, "-c", source, "-o", self.objects / f"{out}.o"]
        return subprocess.run(command, capture_output=True).returncode == 0

    def _link(self, replaced: dict[str, str]) -> bool:
        units = ["nanobind", "module", "naive", "pool", *self.sets]
        files = [self.objects / f"{replaced.get(unit, unit)}.o" for unit in units]
        out = self.tree / CSRC.parent / f"_engine{sysconfig.get_config_var('EXT_SUFFIX')}"
        command = [self.compiler, "-shared", *files, "-o", out, "-pthread", "-ldl"]
        return subprocess.run(command, capture_output=True).returncode == 0
