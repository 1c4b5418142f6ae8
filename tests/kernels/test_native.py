"""The native kernels compared with torch in float64, on every instruction set, for any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrograde import kernels, nn
from retrograde.kernels import native, operators
from retrograde.kernels.shapes import Inputs, LayerSpec

CELLS = ["RNN_TANH", "RNN_RELU", "GRU", "LSTM"]
GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the engine was not built here")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def layer(cell, x, h_0, c_0, weights, *, bias=True, bidirectional=False, batch_sizes=None, recompute=False):
    """One layer computed by the engine."""
    spec = operators.spec_of(cell, weights, bias, bidirectional, recompute)
    return operators.layer(spec, Inputs(x, h_0, c_0, weights, batch_sizes))


class Problem:
    """A random layer and its input, computed by the engine or by torch, in either precision."""

    def __init__(
        self, cell, T, B, inputs, H, *, D=1, bias=True, proj=0, states=True, packed=False, recompute=False, scale=1.0
    ):
        generator = torch.Generator().manual_seed(T * 1000 + B * 100 + inputs * 10 + H)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

        R, rows = proj or H, GATES[cell] * H
        shapes = [(rows, inputs), (rows, R)] + [(rows,)] * (2 * bias) + [(R, H)] * (proj > 0)
        self.cell, self.D, self.bias, self.recompute, self.proj, self.H = cell, D, bias, recompute, proj, H
        self.weights = [draw(*shape) / max(1, shape[-1]) ** 0.5 for _ in range(D) for shape in shapes]
        self.sizes = None
        self.x = draw(T, B, inputs)
        if packed:
            lengths = torch.randint(1, T + 1, (B,), generator=generator).sort(descending=True)[0]
            lengths[0] = T
            self.sizes = (lengths[None] > torch.arange(T)[:, None]).sum(1)
            self.x = torch.cat([x[:n] for x, n in zip(self.x, self.sizes, strict=True)])
        self.h_0 = draw(D, B, R) if states else None
        self.c_0 = draw(D, B, H) if states and cell == "LSTM" else None
        self.grads = [draw(*self.x.shape[:-1], D * R), draw(D, B, R)] + ([draw(D, B, H)] if cell == "LSTM" else [])

    def run(self, engine, dtype=torch.float64):
        """Outputs, followed by the gradients of x, the states and the weights."""

        def cast(t):
            return t.to(dtype).requires_grad_() if t is not None else None

        x, h_0, c_0, weights = cast(self.x), cast(self.h_0), cast(self.c_0), [cast(w) for w in self.weights]
        if engine:
            outputs = layer(
                self.cell,
                x,
                h_0,
                c_0,
                weights,
                bias=self.bias,
                bidirectional=self.D == 2,
                batch_sizes=self.sizes,
                recompute=self.recompute,
            )
        else:
            outputs = self._torch(x, h_0, c_0, weights)
        outputs = [o for o in outputs if o is not None]
        inputs = [t for t in (x, h_0, c_0, *weights) if t is not None]
        grads = torch.autograd.grad(outputs, inputs, [g.to(dtype) for g in self.grads])
        return [o.detach() for o in outputs] + list(grads)

    def _torch(self, x, h_0, c_0, weights):
        operator = getattr(torch, self.cell.lower())
        B = self.grads[1].shape[1]
        if h_0 is None:
            h_0 = x.new_zeros(self.grads[1].shape)
        if c_0 is None and self.cell == "LSTM":
            c_0 = x.new_zeros(self.D, B, self.H)
        hx = (h_0, c_0) if self.cell == "LSTM" else h_0
        options = (self.bias, 1, 0.0, False, self.D == 2)
        if self.sizes is None:
            return operator(x, hx, weights, *options, False)
        return operator(x, self.sizes, hx, weights, *options)


def error(ours, theirs):
    """The largest difference, relative to the largest number of each tensor."""
    assert [t.shape for t in ours] == [t.shape for t in theirs]
    pairs = [(a.double(), b.double()) for a, b in zip(ours, theirs, strict=True) if b.numel()]
    return max([0.0] + [float((a - b).abs().max() / (1 + b.abs().max())) for a, b in pairs])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shape_equals_torch_in_float64(data):
    cell = data.draw(st.sampled_from(CELLS))
    size = st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 40, 64, 65, 70])
    H = data.draw(size)
    problem = Problem(
        cell,
        data.draw(st.integers(1, 12)),
        data.draw(st.integers(1, 20)),
        data.draw(size),
        H,
        D=data.draw(st.integers(1, 2)),
        bias=data.draw(st.booleans()),
        proj=data.draw(st.integers(1, H - 1)) if cell == "LSTM" and H > 1 and data.draw(st.booleans()) else 0,
        states=data.draw(st.booleans()),
        packed=data.draw(st.booleans()),
        recompute=data.draw(st.booleans()),
    )
    truth = problem.run(engine=False)
    assert error(problem.run(engine=True), truth) < 1e-12
    # In float32 no further from the truth than torch is, but for the last digits.
    ours, theirs = (error(problem.run(engine=e, dtype=torch.float32), truth) for e in (True, False))
    # A number in which large ones cancel is as exact as they are, whoever was lucky.
    largest = max(float(t.abs().max()) for t in truth if t.numel())
    assert ours < 2 * theirs + 2e-6 + torch.finfo(torch.float32).eps * largest


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [(70, 3, 5, 130), (9, 40, 300, 20), (3, 2, 7, 650), (700, 1, 3, 4)])
def test_larger_shapes_equal_torch_in_float64(cell, shape):
    problem = Problem(cell, *shape)
    assert error(problem.run(engine=True), problem.run(engine=False)) < 1e-12


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((60, 32, 40, 70), {}),  # shared by rows
        ((40, 2, 200, 300), {}),  # shared by units
        ((60, 24, 20, 90), {"packed": True, "D": 2}),
        ((50, 2, 30, 300), {"packed": True, "D": 2}),
        ((400, 24, 20, 90), {"packed": True}),  # many chunks of time, which threads reach at different moments
        ((60, 16, 40, 70), {"recompute": True}),
        ((40, 2, 100, 300), {"recompute": True}),
    ],
)
def test_the_same_bits_for_any_number_of_threads(cell, shape, options):
    problem = Problem(cell, *shape, **options)
    alone = problem.run(engine=True, dtype=torch.float32)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        together = problem.run(engine=True, dtype=torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert error(alone, problem.run(engine=False)) < 1e-4


@pytest.mark.parametrize("proj", [64, 5])
@pytest.mark.parametrize("B", [2, 40])
def test_projections_give_the_same_bits_too(B, proj):
    problem = Problem("LSTM", 30, B, 20, 200, proj=proj, D=2)
    alone = problem.run(engine=True, dtype=torch.float32)
    torch.set_num_threads(2)
    assert all(map(torch.equal, alone, problem.run(engine=True, dtype=torch.float32)))


@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
@pytest.mark.parametrize("packed", [False, True])
def test_recomputing_gives_the_same_bits(cell, packed):
    for shape in [(300, 3, 5, 40), (40, 130, 20, 150), (7, 300, 5, 40)]:
        kept = Problem(cell, *shape, D=2, packed=packed).run(engine=True, dtype=torch.float32)
        again = Problem(cell, *shape, D=2, packed=packed, recompute=True).run(engine=True, dtype=torch.float32)
        assert all(map(torch.equal, kept, again))


def test_recomputing_keeps_less():
    x, weights = torch.randn(400, 64, 8), [torch.randn(256, 8), torch.randn(256, 64)]
    kept = {}
    for recompute in (False, True):
        spec = LayerSpec(3, 1, False, False, recompute)
        *_, gates, cells = native.forward(spec, Inputs(x, None, None, weights, None), True)
        kept[recompute] = sum(t.numel() for t in (gates, cells) if t is not None)
    assert kept[True] < kept[False] / 20


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_as_in_torch(cell, value):
    problem = Problem(cell, 5, 3, 4, 33, scale=0.5)
    problem.x[2, 1, 0] = value
    for ours, theirs in zip(
        problem.run(engine=True, dtype=torch.float32), problem.run(engine=False, dtype=torch.float32), strict=True
    ):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("logistic", [False, True])
def test_activations_over_the_whole_range(logistic):
    small = torch.logspace(-37, 0, 4001, dtype=torch.float64)
    x64 = torch.cat([small, -small, torch.linspace(-120, 120, 40001, dtype=torch.float64)])
    for dtype, absolute, ulps in ((torch.float32, 2e-7, 4), (torch.float64, 1e-15, 8)):
        x = x64.to(dtype)
        y = torch.empty_like(x)
        native._engine.activation(dtype is torch.float64, logistic, y, x, len(x))
        truth = x.double().sigmoid() if logistic else x.double().tanh()
        difference = (y.double() - truth).abs()
        assert difference.max() <= absolute
        sure = truth.abs() > 1e-37
        assert (difference[sure] / truth[sure].abs()).max() <= ulps * torch.finfo(dtype).eps
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0])
    y = torch.empty_like(special)
    native._engine.activation(False, logistic, y, special, 4)
    expected = special.sigmoid() if logistic else special.tanh()
    torch.testing.assert_close(y, expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 33), (65, 300, 70), (130, 513, 100), (5, 0, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matmul(shape, dtype):
    M, K, N = shape
    a, b = torch.randn(M, K, dtype=dtype), torch.randn(K, N, dtype=dtype)
    for threads in (1, 2):
        for right in (b, b.t().contiguous().t()):
            ours = kernels.matmul(a, right, threads=threads)
            torch.testing.assert_close(ours.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-4)


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(params=native._engine.runnable() if kernels.available() else [])
def instruction_set(request):
    before = native._engine.instruction_set()
    native._engine.choose(request.param)
    yield request.param
    native._engine.choose(before)


@pytest.mark.parametrize("cell", CELLS)
def test_every_instruction_set_equals_torch(instruction_set, cell):
    assert kernels.info()["instruction_set"] == instruction_set
    for shape in [(5, 3, 7, 33), (4, 1, 5, 17), (3, 15, 40, 64), (20, 9, 300, 5), (3, 7, 2, 130)]:
        for options in [{}, {"D": 2, "packed": True}, {"D": 2, "bias": False, "states": False, "recompute": True}]:
            problem = Problem(cell, *shape, **options)
            truth = problem.run(engine=False)
            assert error(problem.run(engine=True), truth) < 1e-12, (shape, options)
            assert error(problem.run(engine=True, dtype=torch.float32), truth) < 1e-5, (shape, options)
    problem = Problem(cell, 20, 20, 20, 70)
    alone = problem.run(engine=True, dtype=torch.float32)
    torch.set_num_threads(2)
    assert all(map(torch.equal, alone, problem.run(engine=True, dtype=torch.float32)))
    torch.set_num_threads(1)
    if cell == "LSTM":
        problem = Problem("LSTM", 4, 5, 6, 40, proj=19)
        assert error(problem.run(engine=True), problem.run(engine=False)) < 1e-12


def test_the_environment_chooses_an_instruction_set():
    result = python("from retrograde import kernels; print(kernels.info())", RETROGRADE_ISA="portable")
    assert result.returncode == 0, result.stderr
    assert "'instruction_set': 'portable'" in result.stdout and "RETROGRADE_ISA=portable" in result.stdout


def test_an_unknown_instruction_set_is_named():
    result = python("import retrograde.kernels", RETROGRADE_ISA="mmx")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "OptionError" in last and "RETROGRADE_ISA=mmx" in last and "portable" in last


@pytest.mark.parametrize("pool", ["torch", "own"])
def test_after_a_fork_the_child_computes_the_same(pool):
    code = """
import os, sys
sys.path.insert(0, {folder!r})
import torch
from test_native import Problem
from retrograde.kernels import native
from retrograde.kernels.shapes import Inputs, LayerSpec
torch.set_num_threads(2)
problem = Problem("GRU", 30, 2, 200, 200)
before = problem.run(engine=True, dtype=torch.float32)
bits = [t.numpy().tobytes() for t in before]
x, h = problem.x.float(), problem.h_0.float()
grads, w = [g.float() for g in problem.grads], [w.float() for w in problem.weights]
child = os.fork()
if child == 0:
    # the engine alone: torch's own operators hang after a fork, since OpenMP misses its threads
    spec = LayerSpec(2, 1, True, False, False)
    inputs = Inputs(x, h, None, w, None)
    out, h_n, _, gates, cells = native.forward(spec, inputs, True)
    found = native.backward(spec, [*grads, None], inputs, (out, gates, cells), [True, True, False, *[True] * 4])
    same = bits == [t.numpy().tobytes() for t in (out, h_n, found[0], found[1], *found[3:])]
    os._exit(0 if same else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert all(map(torch.equal, before, problem.run(engine=True, dtype=torch.float32)))
"""
    result = python(code.format(folder=str(Path(__file__).parent)), RETROGRADE_POOL=pool)
    assert result.returncode == 0, result.stderr


SHARED = """
import pathlib, sys, time
sys.path[:0] = [{folder!r}, str(pathlib.Path({folder!r}).parent)]
import torch
from test_native import Problem
from test_naive import stack
from retrograde import kernels
from retrograde.kernels import native
from retrograde.kernels.shapes import Inputs, LayerSpec
torch.set_num_threads(2)
a, layers = torch.randn(700, 700), stack(["LSTM", "LSTM"], 40, 8, 96, torch.float32, torch.Generator())
rows, units = Problem("LSTM", 60, 64, 64, 128), Problem("GRU", 150, 1, 64, 512)

def passes(problem, cell):
    x, *weights = (t.float() for t in (problem.x, *problem.weights))
    spec, inputs = LayerSpec(cell, 1, True, False, False), Inputs(x, None, None, weights, None)
    out, _, _, *kept = native.forward(spec, inputs, True)
    grads, kept, needs = [torch.ones_like(out), None, None], [out, *kept], [True, False, False, *[True] * 4]
    return lambda: native.forward(spec, inputs, False), lambda: native.backward(spec, grads, inputs, kept, needs)

work = [*passes(rows, 3), *passes(units, 2)]
work += [lambda: kernels.matmul(a, a), lambda: native.adjoint_norms(layers, torch.arange(40), "h")]
def shared(run):  # a team that comes late on a busy machine is not asked for a while
    end = time.monotonic() + 20
    while time.monotonic() < end:
        whole, own = time.process_time(), time.thread_time()
        run()
        whole, own = time.process_time() - whole, time.thread_time() - own
        if whole - own > 0.2 * own:
            return True
    return False

for i, run in enumerate(work):
    run()
    assert shared(run), i
print("done")
"""


def test_large_work_is_shared_by_the_threads():
    # by processor time, which another process on the machine does not change; threads of ours sleep while they wait
    result = python(SHARED.format(folder=str(Path(__file__).parent)), RETROGRADE_POOL="own")
    assert result.returncode == 0 and "done" in result.stdout, result.stderr


def test_several_python_threads_at_once():
    torch.set_num_threads(2)
    problems = [Problem(cell, 20, B, 50, 120, D=2) for cell in CELLS for B in (2, 20)]
    expected = [p.run(engine=True, dtype=torch.float32) for p in problems]
    found = [None] * len(problems)

    def work(i):
        for _ in range(3):
            found[i] = problems[i].run(engine=True, dtype=torch.float32)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, theirs in zip(found, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_the_callers_float_mode_is_left_alone():
    tiny = torch.tensor([1e-40])
    Problem("LSTM", 3, 2, 4, 5).run(engine=True)
    assert float(tiny * 1.0) > 0  # still not flushed to zero outside the engine


def test_info_says_what_runs():
    info = kernels.info()
    assert info["available"] is True
    assert info["instruction_set"] in info["instruction_sets"]
    assert info["threads"] == torch.get_num_threads()


def test_graphs_alive_at_once_have_memory_of_their_own():
    layer = nn.LSTM(40, 200)
    inputs = [torch.randn(60, 32, 40) for _ in range(3)]
    alone = [torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters())) for x in inputs]
    losses = [layer(x)[0].sum() for x in inputs]
    for loss, expected in zip(losses, alone, strict=True):
        for _ in range(2):
            found = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
            assert all(map(torch.equal, found, expected))


def test_memory_is_used_again_only_once_it_is_free():
    x, weights = torch.randn(60, 32, 40), [torch.randn(800, 40), torch.randn(800, 200)]
    spec = LayerSpec(3, 1, False, False, False)

    def gates():
        return native.forward(spec, Inputs(x, None, None, weights, None), True)[3]

    native.empty_cache()
    first = gates()
    view, place = first[0, 5:], first.data_ptr()
    del first
    second = gates()
    assert second.data_ptr() != place  # a view still lies there
    del view
    assert gates().data_ptr() == place
    native.empty_cache()
    assert torch.equal(second, gates())


def test_outputs_and_gradients_are_the_users_as_long_as_they_live():
    layer = nn.GRU(8, 64)

    def step(seed):
        x = torch.randn(100, 64, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        out = layer(x)[0]
        (grad,) = torch.autograd.grad(out.square().sum(), x)
        return out.detach(), grad

    kept = [step(seed) for seed in range(3)]
    copies = [[t.clone() for t in pair] for pair in kept]
    again = [step(seed) for seed in range(3)]
    assert all(
        torch.equal(t, c) for pair, own in zip(kept, copies, strict=True) for t, c in zip(pair, own, strict=True)
    )
    assert all(
        torch.equal(t, c) for pair, own in zip(again, copies, strict=True) for t, c in zip(pair, own, strict=True)
    )
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for pair in kept for t in pair)


def test_memory_that_other_processes_may_read_is_not_used_again():
    layer, x = nn.RNN(4, 64), torch.randn(100, 64, 4)
    out = layer(x)[0].detach().share_memory_()
    address = out.data_ptr()
    del out
    kept = [layer(x)[0] for _ in range(3)]
    assert address not in [out.data_ptr() for out in kept]
    assert not any(out.is_shared() for out in kept)
