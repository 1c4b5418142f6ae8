"""What a `GradientCheck` prints."""

from __future__ import annotations

import io

import torch
from faulty import Cell, x
from rich.console import Console
from torch import nn

import retrograde as rg


def test_the_table_shows_the_worst_first_in_every_form():
    check = rg.check_gradients(Cell(fault="scaled"), x())
    lines = repr(check).splitlines()
    assert lines[0] == "GradientCheck of Cell, float32 on cpu, in eval mode"
    assert lines[2].split()[:2] == ["gradient", "of"]
    assert lines[3].split()[0] == "weight_hh" and lines[3].endswith("WRONG")
    assert sum(line.endswith("WRONG") for line in lines) == 1

    out = io.StringIO()
    Console(file=out, width=200, force_terminal=True, color_system="standard").print(check)
    (wrong,) = (line for line in out.getvalue().splitlines() if "WRONG" in line)
    (right, *_) = (line for line in out.getvalue().splitlines() if line.rstrip("│ \x1b[0m").endswith("ok"))
    assert "\x1b[1;31m" in wrong and "\x1b[1;31m" not in right  # bold red

    out = io.StringIO()
    Console(file=out, width=200).print(check)
    assert "weight_hh" in out.getvalue() and "WRONG" in out.getvalue() and "not the derivative" in out.getvalue()
    assert "<pre>" in check._repr_html_() and "weight_hh" in check._repr_html_()


def test_ten_rows_are_shown_and_the_others_counted():
    check = rg.check_gradients(nn.GRU(3, 4, num_layers=2), x(), entries=2)
    shown = [line for line in repr(check).splitlines() if line.endswith(" ok")]
    left_out = len(check.errors) - 10
    assert len(shown) == 10 and left_out > 5
    assert f"and {left_out} more, all of them ok" in repr(check)
    assert f"and {left_out} more, all of them ok" in check._repr_html_()


def test_the_verdict_counts_gradients_once_although_they_are_compared_twice():
    check = rg.check_gradients(nn.Linear(3, 1, bias=False), torch.randn(2, 3))
    assert check.verdict == "right: 2 gradients agree with float64 and with finite differences"  # weight and input
    assert check.wrong == ()
    embedding = rg.check_gradients(nn.Embedding(4, 2), torch.tensor([1, 3]))
    assert embedding.verdict == "right: 1 gradient agrees with float64 and with finite differences"
