"""Memory that cannot be allocated: a clean exception, and correct numbers at the next call."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from test_native import layer

from retrograde import kernels
from retrograde.kernels import native

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the engine was not built here")
CELLS = ["RNN_TANH", "GRU", "LSTM"]


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) / 8


def layer_arguments(cell, T=40, B=6, inputs=20, H=96):
    gates = {"RNN_TANH": 1, "GRU": 3, "LSTM": 4}[cell]
    weights = [drawn(gates * H, inputs), drawn(gates * H, H), drawn(gates * H), drawn(gates * H)]
    return drawn(T, B, inputs), None, None, weights


def forward(cell):
    return list(layer(cell, *layer_arguments(cell))[:2])


def gradients(cell, recompute=False):
    x, h, c, weights = layer_arguments(cell)
    leaves = [x.requires_grad_(), *(w.requires_grad_() for w in weights)]
    out = layer(cell, x, h, c, weights, recompute=recompute)[0]
    return list(torch.autograd.grad(out.square().sum(), leaves))


def second_derivatives(cell):
    x, h, c, weights = layer_arguments(cell, T=3, B=2, inputs=3, H=5)
    x.requires_grad_()
    weights[1].requires_grad_()
    out = layer(cell, x, h, c, weights)[0]
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    return list(torch.autograd.grad(grad.square().sum(), [x, weights[1]]))


def one_step(cell):
    x, _, _, weights = layer_arguments(cell, B=2, H=200)
    return [t for t in native.step(cell, x[0], None, None, weights, 200, 0, True) if t is not None]


def adjoint_norms(cell):
    T, B, H, gates = 12, 3, 20, {"RNN_TANH": 1, "GRU": 3, "LSTM": 4}[cell]
    wide = drawn(T, B, (3 if gates > 1 else 1) * H)
    side, q, f = (drawn(T, B, H), drawn(T, B, H), drawn(T, B, H)) if gates > 1 else (None, None, None)
    layer = kernels.Adjoint(cell, wide, side, q, f, None, drawn(gates * H, H), drawn(gates * H, H), drawn(T, B, H))
    return [native.adjoint_norms([layer, layer], torch.arange(T), "h")]


def matmul(cell):
    return [kernels.matmul(drawn(300, 200), drawn(200, 100), threads=2)]


def retraining(cell):
    return gradients(cell, recompute=True)


WORK = [forward, gradients, retraining, second_derivatives, one_step, adjoint_norms, matmul]


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    native._engine.fail_allocation(0)
    yield
    native._engine.fail_allocation(0)
    torch.set_num_threads(before)


def in_a_new_thread(work):
    """Run `work` where the engine has no working memory yet; return its result or what it raised."""
    found = []

    def run():
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    return found[0]


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("cell", CELLS)
def test_every_allocation_of_the_engine_in_turn(work, cell):
    expected = work(cell)
    failures = 0
    for n in range(1, 50):

        def once(n=n):
            native._engine.fail_allocation(n)
            try:
                return work(cell)
            finally:
                once.left = native._engine.fail_allocation(0)

        outcome = in_a_new_thread(once)
        if once.left > 0:  # it asks for fewer than n
            assert all(map(torch.equal, outcome, expected))
            break
        failures += 1
        assert isinstance(outcome, MemoryError), outcome
        assert "could not allocate" in str(outcome) and "\n" not in str(outcome)
        assert all(map(torch.equal, in_a_new_thread(lambda: work(cell)), expected))
        assert all(map(torch.equal, work(cell), expected))
    else:
        pytest.fail("the allocations never end")
    assert failures >= 1


@pytest.mark.parametrize("work", WORK)
def test_every_tensor_that_the_engine_asks_torch_for_in_turn(work, monkeypatch):
    expected = work("LSTM")
    kernels.empty_cache()
    calls = {"left": 0}

    def failing(allocate):
        def maybe(*args, **kwargs):
            calls["left"] -= 1
            if calls["left"] == 0:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return allocate(*args, **kwargs)

        return maybe

    for owner, name in ((torch.Tensor, "new_empty"), (torch, "empty"), (torch, "empty_like"), (torch, "tensor")):
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))
    for n in range(1, 50):
        calls["left"] = n
        try:
            outcome = work("LSTM")
        except RuntimeError as error:
            assert "can't allocate" in str(error)
        else:
            assert calls["left"] > 0  # it asks for fewer than n
            break
        calls["left"] = 0
        assert all(map(torch.equal, work("LSTM"), expected))
    assert n > 1
    assert all(map(torch.equal, outcome, expected))


NO_THREADS = """
import os, sys
sys.path.insert(0, "{folder}")
import torch
import test_allocation as t
from retrograde.kernels import native
parts = (t.forward, t.gradients, t.retraining, t.adjoint_norms, t.matmul)
work = [lambda c=c, f=f: f(c) for c in t.CELLS for f in parts]
torch.set_num_threads(1)
expected = [w() for w in work]
t.kernels.matmul(t.drawn(8, 1000), t.drawn(1000, 4000))  # working memory enough for all
torch.set_num_threads(3)
started = len(os.listdir("/proc/self/task"))
def check(n):
    left = -n
    for _ in range(99):  # a team that comes late on a busy machine is not asked for a while
        native._engine.fail_allocation(left)
        for w, right in zip(work, expected):
            assert all(map(torch.equal, w(), right)), n
        left = native._engine.fail_allocation(0)
        if left == -1:
            return
    raise AssertionError((n, left))
check(1)  # no team at all
check(2)  # a team without workers: no memory for the first one's signal
check(2)  # nor its thread
check(3)  # one worker of two
assert all(torch.equal(a, b) for w, right in zip(work, expected) for a, b in zip(w(), right))
alive = len(os.listdir("/proc/self/task"))
assert alive <= started + 4, (started, alive)  # two workers of ours and two of torch's: none was started twice
for w in work:
    w()
assert len(os.listdir("/proc/self/task")) == alive
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize(
    "environment",
    [
        {"RETROGRADE_POOL": "own"},
        {"OMP_THREAD_LIMIT": "1"},  # torch's team refuses, and ours has to step in
    ],
    ids=["own", "refused"],
)
def test_threads_that_cannot_be_started(environment):
    code = NO_THREADS.format(folder=Path(__file__).parent)
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0 and "done" in result.stdout, result.stdout + result.stderr


NO_MEMORY = """
import resource, sys
sys.path.insert(0, "{folder}")
import torch
import test_allocation as t
from retrograde import kernels
torch.set_num_threads(2)
expected = [f(cell) for cell in t.CELLS for f in (t.gradients, t.matmul)]
refused = 0
for room in (0, 20, 60):
    x, weights = torch.zeros(4000, 64, 16), [torch.zeros(1024, 16), torch.zeros(1024, 256)]
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (room << 20), resource.RLIM_INFINITY))
    try:
        for w in weights:
            w.requires_grad_()
        t.layer("LSTM", x, None, None, weights, bias=False)[0].sum().backward()
    except (MemoryError, RuntimeError) as error:
        refused += "allocate" in str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert refused == 3, refused
found = [f(cell) for cell in t.CELLS for f in (t.gradients, t.matmul)]
assert all(torch.equal(a, b) for ours, theirs in zip(found, expected) for a, b in zip(ours, theirs))
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_a_machine_without_memory():
    result = subprocess.run(
        [sys.executable, "-c", NO_MEMORY.format(folder=Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0 and "done" in result.stdout, result.stdout + result.stderr
