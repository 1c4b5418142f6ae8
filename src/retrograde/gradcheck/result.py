"""The result of `check_gradients`, and how it prints."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .wording import dtype_name

if TYPE_CHECKING:
    from rich.console import Group

FLOAT64 = "float64"
DIFFERENCES = "finite differences"

_COLUMNS = ("gradient of", "against", "max error", "relative", "tolerance", "at", "found", "expected", "")
_NUMBERS = range(2, 8)  # columns that are aligned to the right
_SHOWN = 10  # rows, unless more are wrong


@dataclass(frozen=True)
class GradientError:
    """How far one gradient (or output) is from the value it is compared with.

    Attributes
    ----------
    name : str
        The name in ``named_parameters``; for an input, the name in the signature of ``forward``.
    kind : {"parameter", "input", "output"}
    oracle : {"float64", "finite differences"}
        What it is compared with: the module itself in float64 on the CPU, or differences of its forward in float64.
    shape : tuple of int
    max_abs_error : float
        The largest ``|found − expected|`` over the entries compared.
    relative_error : float
        The same, divided by the largest ``|expected|`` of the whole tensor. The divisor is never below the rounding
        error that the largest of all gradients (or outputs) explains.
    where : tuple of int or None
        The entry with the largest error; None if there is none, or if the error shows in random directions only.
    found, expected : float
        The two values there.
    tolerance : float
        The largest ``relative_error`` that is accepted.
    ok : bool
        Whether the error is within the tolerance, or explained by rounding alone.
    probes : int
        Number of entries and directions compared.
    kinks : int
        How many of them are at a kink (of a ReLU, say), where no derivative exists; they are not judged.
    unsettled : int
        How many of them cannot be measured by differences, because they never settle (an exploding gradient) or are
        lost in rounding; they are not judged.
    remark : str
        An additional remark; often empty.
    """

    name: str
    kind: str
    oracle: str
    shape: tuple[int, ...]
    max_abs_error: float
    relative_error: float
    where: tuple[int, ...] | None
    found: float
    expected: float
    tolerance: float
    ok: bool
    probes: int
    kinks: int = 0
    unsettled: int = 0
    remark: str = ""

    @property
    def judged(self) -> bool:
        """Whether there is a verdict: at least one probe was judged, and rounding does not change the value a lot."""
        return self.kinks + self.unsettled < self.probes and not self.remark.startswith("ill-conditioned")

    @property
    def label(self) -> str:
        """The name, followed by the kind unless it is a parameter."""
        return self.name if self.kind == "parameter" else f"{self.name} ({self.kind})"


@dataclass(frozen=True, repr=False)
class GradientCheck:
    """The result of `check_gradients`; true in a boolean context if every gradient is right.

    Attributes
    ----------
    errors : tuple of GradientError
        One for each gradient and each comparison, the worst first.
    module : str
        The type of the module.
    dtype : torch.dtype
        The lowest precision of parameters, inputs and outputs; it determines the tolerance.
    device : torch.device
        Where the module was run.
    mode : {"eval", "training"}
        The mode in which it was run.
    notes : tuple of str
        Circumstances: what was switched off, what could not be judged.
    """

    errors: tuple[GradientError, ...]
    module: str
    dtype: torch.dtype
    device: torch.device
    mode: str = "eval"
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every gradient is within its tolerance."""
        return all(error.ok for error in self.errors)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def wrong(self) -> tuple[str, ...]:
        """Names of the parameters, inputs and outputs that are wrong, the worst first."""
        return tuple(dict.fromkeys(error.name for error in self.errors if not error.ok))

    @property
    def verdict(self) -> str:
        """The result in a sentence or two."""
        wrong = [error for error in self.errors if not error.ok]
        if not wrong:
            return self._no_error_found()
        mathematics = list(dict.fromkeys(error.label for error in wrong if error.oracle == DIFFERENCES))
        outputs = [error.label for error in wrong if error.kind == "output"]
        arithmetic = [error.label for error in wrong if error.oracle == FLOAT64 and error.label not in mathematics]
        findings = []
        if mathematics:
            findings.append(
                f"wrong for {', '.join(mathematics)}: the backward is not the derivative of the forward "
                "(a wrong backward, or a path cut by detach, .data or no_grad)"
            )
        if outputs:
            findings.append(
                f"wrong in the forward already ({', '.join(outputs)}): {dtype_name(self.dtype)} on {self.device} "
                "computes something else than float64"
            )
        elif arithmetic:
            findings.append(
                f"wrong for {', '.join(arithmetic)} in {dtype_name(self.dtype)} on {self.device}, "
                f"where float64 on the CPU {'is right' if not mathematics else 'gives something else'}"
            )
        return "; ".join(findings)

    def _no_error_found(self) -> str:
        right = dict.fromkeys(error.label for error in self.errors if error.kind != "output")
        unjudged = dict.fromkeys(e.label for e in self.errors if e.kind != "output" and not e.judged)
        agree = len(right) - len(unjudged)
        agreement = "1 gradient agrees" if agree == 1 else f"{agree} gradients agree"
        finding = f"{agreement} with float64 and with finite differences"
        if not unjudged:
            return f"right: {finding}"
        return f"no fault found, but not all could be judged: {finding}; not judged by both: {', '.join(unjudged)}"

    def _title(self) -> str:
        return f"GradientCheck of {self.module}, {dtype_name(self.dtype)} on {self.device}, in {self.mode} mode"

    def _rows(self) -> list[tuple[str, ...]]:
        """All that are wrong, and others up to ten rows."""
        wrong = [error for error in self.errors if not error.ok]
        shown = [*wrong, *(error for error in self.errors if error.ok)][: max(_SHOWN, len(wrong))]
        rows: list[tuple[str, ...]] = []
        for e in shown:
            where = "–" if e.where is None else str(e.where)
            verdict = "ok" if e.ok else "WRONG"
            figures = (f"{e.max_abs_error:.1e}", f"{e.relative_error:.1e}", f"{e.tolerance:.0e}")
            values = (f"{e.found:.6g}", f"{e.expected:.6g}")
            rows.append((e.label, e.oracle, *figures, where, *values, verdict + (f": {e.remark}" if e.remark else "")))
        return rows

    def _below(self, rows: list[tuple[str, ...]]) -> list[str]:
        """The lines below the table."""
        left_out = len(self.errors) - len(rows)
        more = [f"and {left_out} more, all of them ok (see .errors)"] if left_out else []
        return more + [f"note: {note}" for note in self.notes]

    def _renderable(self, boxed: bool) -> Group:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        rows = self._rows()
        table = Table(box=box.HEAVY_HEAD if boxed else None, pad_edge=boxed)
        for column, head in enumerate(_COLUMNS):
            table.add_column(head, justify="right" if column in _NUMBERS else "left", no_wrap=not boxed)
        for row in rows:
            table.add_row(*map(Text, row), style="bold red" if row[-1].startswith("WRONG") else "")
        verdict = Text(self.verdict, style="green" if self.ok else "bold red")
        return Group(Text(self._title()), verdict, table, *map(Text, self._below(rows)))

    def __repr__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=10_000, color_system=None).print(self._renderable(boxed=False))
        title, *lines = (line.rstrip() for line in out.getvalue().rstrip().splitlines())
        return "\n".join([title, *(f"  {line}" for line in lines)])

    def __rich__(self) -> Group:
        return self._renderable(boxed=True)

    def _repr_html_(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=200, record=True)
        console.print(self)
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
