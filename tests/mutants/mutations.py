"""The mutants of a Python file: each differs from it in one operator, number, default, condition or statement."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Mutant", "mutants"]

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """One change: lines and columns (in UTF-8 bytes, as `ast` counts them) that ``new`` replaces."""

    line: int
    column: int
    end_line: int
    end_column: int
    old: str
    new: str

    def apply(self, source: str) -> str:
        """The source with the change in it."""
        whole = source.encode()
        lines = whole.split(b"\n")
        start = sum(len(line) + 1 for line in lines[: self.line - 1]) + self.column
        end = sum(len(line) + 1 for line in lines[: self.end_line - 1]) + self.end_column
        return (whole[:start] + self.new.encode() + whole[end:]).decode()


def mutants(source: str) -> list[Mutant]:
    """All mutants of a Python file, in the order of its lines."""
    found = {}
    for node, changed in _changes(ast.parse(source)):
        new = ast.unparse(changed)
        if isinstance(node, ast.expr):
            new = f"({new})"
        old = ast.unparse(node)
        mutant = Mutant(node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0, old, new)
        found[mutant] = None
    return sorted(found, key=lambda one: (one.line, one.column, one.new))


def _changes(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST]]:
    """Each node that can be changed, and what replaces it."""
    for child in _children(node):
        if isinstance(child, (ast.expr, ast.stmt)):
            for changed in _variants(child):
                yield child, changed
        yield from _changes(child)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The children that are run and can be changed: no annotations, docstrings, messages, imports for type checkers."""
    match node:
        case ast.If(test=ast.Name("TYPE_CHECKING")) | ast.Assign(targets=[ast.Name("__all__" | "__slots__")]):
            return
        case ast.Raise() | ast.JoinedStr():
            return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "type_params", "type_comment", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_docstring(child):
                yield child


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, (ast.Constant, ast.JoinedStr))


def _variants(node: ast.expr | ast.stmt) -> Iterator[ast.AST]:
    new: ast.AST
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
            new = copy.copy(node)
            new.ops = [COMPARISONS[type(operator)]()]
            yield new
        case ast.BinOp(left, operator, right) if type(operator) in ARITHMETIC and not (
            _is_text(left) or _is_text(right)
        ):
            new = copy.copy(node)
            new.op = ARITHMETIC[type(operator)]()
            yield new
        case ast.BoolOp(op=operator):
            new = copy.copy(node)
            new.op = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield new
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value) if value + 1 != value:  # not 1e30
            yield ast.Constant(value + 1)
        case ast.IfExp(body=body, orelse=orelse):
            new = copy.copy(node)
            new.body, new.orelse = orelse, body
            yield new
        case ast.Return(value=None | ast.Constant(value=None)):
            pass
        case ast.Return():
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)))
