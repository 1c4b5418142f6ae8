"""What the engine refuses by itself, whoever calls it: sizes and lists that would make it read beyond a tensor."""

from __future__ import annotations

import pytest
import torch

from retrograde import kernels
from retrograde.errors import OptionError
from retrograde.kernels import native

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the engine was not built here")
GRU, LSTM, NOTHING = 2, 3, torch.empty(0)


def numbers(*shape):
    return torch.zeros(*shape)


def layer(cell=GRU, directions=1, T=2, B=3, I=4, H=5, R=5, rows=6, segment=0, threads=1, sizes=None, weights=4):  # noqa: E741
    """A layer of the engine; every number may be another than its tensors have."""
    return native._engine.Layer(
        (cell, directions, True, False, False), (T, B, I, H, R, rows), False, segment, threads, numbers(6, 4), None,
        None, [numbers(15, 5)] * weights, None if sizes is None else torch.tensor(sizes), numbers(6, 5), None, None,
    )  # fmt: skip


def adjoints(T=4, B=2, threads=1, targets=(1, 3), count=2, layers=1, cell=GRU, H=5, I=3, **missing):  # noqa: E741
    """Norms of adjoints of so many equal layers."""
    given = {name: numbers(4, 2, 20) for name in ("k", "k_side", "q", "f", "passed", "w_hh", "w_ih", "local")}
    given |= {"norms": torch.zeros(2, 2, 4, dtype=torch.float64)} | missing
    stack = [native._engine.adjoint_layer(cell, H, I, *given.values()) for _ in range(layers)]
    native._engine.adjoint_norms(
        float64=False, state=0, threads=threads, T=T, B=B, targets=torch.tensor(targets), count=count, layers=stack
    )


def product(M=2, N=3, K=4, threads=1):
    native._engine.matmul(False, numbers(2, 3), numbers(2, 4), numbers(4, 3), False, M, N, K, threads)


def stream(B=1, cell=GRU, I=4, H=5, R=5, sums=True, layers=1, then=5, **missing):  # noqa: E741
    """A step of a stack whose layers after the first have ``then`` inputs."""
    memory = numbers(200 if sums else 0)  # the engine keeps no reference
    found = native._engine.Stream(False, B, memory)
    given = dict.fromkeys(("w_ih", "w_hh"), numbers(600)) | {"w_hr": None, "b": None, "b_hn": None}
    given |= dict.fromkeys(("h", "c"), numbers(16)) | missing
    for place in range(layers):
        found.add(cell, then if place else I, H, R, *given.values())
    found.step(numbers(1, 4), numbers(1, 5))


def test_what_fits_is_computed():
    layer(), layer(sizes=[3, 3]), layer(H=1, R=1), layer(cell=LSTM), layer(cell=0)
    adjoints(), adjoints(cell=LSTM), adjoints(cell=0, k_side=None), adjoints(cell=1), adjoints(targets=(0, 1))
    product(), stream(), stream(cell=LSTM), stream(layers=2), stream(cell=0, c=None), stream(B=1, I=1)


@pytest.mark.parametrize(
    ("call", "words", "wrong"),
    [
        (layer, "no such cell or number of directions", [{"cell": -1}, {"cell": 4}, {"directions": 3}]),
        (layer, "a size is negative", [{name: -1} for name in ("T", "B", "I", "segment")] + [{"H": 0}, {"R": 0}]),
        (layer, "at least one thread", [{"threads": 0}]),
        (layer, "another number of weights", [{"weights": 3}, {"weights": 6}]),
        (layer, "must be T \\* B", [{"rows": 5}, {"rows": 7}]),
        (layer, "at least 1 and never grow", [{"sizes": [3, 0]}, {"sizes": [2, 4]}, {"sizes": [4, 2]}]),
        (layer, "must add up", [{"sizes": [3, 2]}]),
        (adjoints, "no such cell or no units", [{"cell": -1}, {"cell": 4}, {"H": 0}, {"I": -1}]),
        (adjoints, "too many layers, or none", [{"layers": 0}, {"layers": kernels.MAX_ADJOINT_LAYERS + 1}]),
        (adjoints, "is not positive", [{name: 0} for name in ("T", "B", "count", "threads")]),
        (adjoints, "targets must rise", [{"targets": own} for own in ((1, 1), (-1, 2), (1, 4))]),
        (adjoints, "lacks a tensor", [{name: NOTHING} for name in ("k", "w_hh", "w_ih", "local", "norms", "k_side")]),
        (adjoints, "lacks a tensor", [{"cell": LSTM, name: NOTHING} for name in ("q", "f")]),
        (product, "a size is negative, or there is no", [{"M": -1}, {"N": -1}, {"K": -1}, {"threads": 0}]),
        (stream, "needs a sequence and working memory", [{"B": 0}, {"sums": False}]),
        (stream, "no units or no input", [{"cell": -1}, {"cell": 4}, {"I": 0}, {"H": 0}, {"R": 0}]),
        (stream, "lacks a tensor", [{name: NOTHING} for name in ("w_ih", "w_hh", "h")] + [{"cell": LSTM, "c": None}]),
        (stream, "lacks a tensor", [{"R": 4}]),
        (stream, "the output of the one below", [{"layers": 2, "then": 4}]),
        (stream, "a stream needs a layer", [{"layers": 0}]),
    ],
)
def test_what_does_not_fit_is_refused(call, words, wrong):
    for own in wrong:
        with pytest.raises(OptionError, match=words):
            call(**own)
