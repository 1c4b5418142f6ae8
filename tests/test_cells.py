"""The one place where cells are described agrees with torch, with the float64 oracle and with the engine's source."""

import copy
import pickle
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import retrograde
from retrograde import kernels, nn, reference
from retrograde.cells import BY_MODE, BY_NAME, CELLS, FUSED, CellName, Nonlinearity, find
from retrograde.errors import OptionError
from retrograde.options import Options

SOURCE = Path(retrograde.__file__).parent


@pytest.fixture(params=FUSED, ids=lambda cell: cell.mode)
def cell(request):
    """A cell that torch and the engine have too."""
    return request.param


@pytest.fixture(params=CELLS, ids=lambda cell: cell.mode)
def any_cell(request):
    """A cell, whether torch has it or not."""
    return request.param


def layer_of(cell, *sizes, **options):
    """Torch's layer of the cell; of a cell that torch does not have, ours."""
    if cell not in FUSED:
        return nn.recurrent_layer(*sizes, cell=cell.name).double()
    if cell.name == "rnn":
        options["nonlinearity"] = cell.nonlinearity
    return getattr(torch.nn, cell.title)(*sizes, **options).double()


def test_names_modes_and_numbers_are_those_of_torch_and_the_engine(cell):
    layer = layer_of(cell, 3, 4)
    assert layer.mode == cell.mode and BY_MODE[cell.mode] is cell
    assert len(layer.weight_hh_l0) == 4 * len(cell.gates)
    assert CELLS[cell.number] is cell
    assert find(cell.name, cell.nonlinearity) is cell and find(cell.name).nonlinearity == "tanh"
    engine = "".join(path.read_text(encoding="utf-8") for path in (SOURCE / "kernels/csrc").glob("*.hpp"))
    numbers = dict(re.findall(r"\bk(Tanh|Relu|Gru|Lstm) = (\d)", engine))
    assert int(numbers[cell.mode.removeprefix("RNN_").capitalize()]) == cell.number


def test_the_names_of_the_types_and_options_are_those_of_the_cells():
    assert list(get_args(CellName)) == list(BY_NAME)
    assert set(get_args(Nonlinearity)) == {cell.nonlinearity for cell in CELLS}
    assert {Options(cell=name).cell for name in BY_NAME} == set(BY_NAME)
    with pytest.raises(OptionError, match="there is no cell 'qrnn'; choose one of rnn, gru, lstm"):
        find("qrnn")


def test_copies_are_the_same_object(cell):
    assert pickle.loads(pickle.dumps(cell)) is cell and copy.deepcopy(cell) is cell


def problem(cell, projection=0, batch=3, hidden=4, inputs=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layer = layer_of(cell, inputs, hidden, **({"proj_size": projection} if projection else {}))
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(-1, 1, generator=generator)
    sizes = {"h": projection or hidden, "c": hidden}
    state = tuple(torch.randn(batch, sizes[s], generator=generator, dtype=torch.float64) for s in cell.states)
    return layer, torch.randn(batch, inputs, generator=generator, dtype=torch.float64), state


def one_step(cell, layer, x, state):
    into = F.linear(x, layer.weight_ih_l0, layer.bias_ih_l0)
    back = F.linear(state[0], layer.weight_hh_l0, layer.bias_hh_l0)
    return cell.step(into, back, state, getattr(layer, "weight_hr_l0", None))


@pytest.mark.parametrize("projection", [0, 2])
def test_a_step_is_torchs(cell, projection):
    if projection and cell.name != "lstm":
        pytest.skip("only an LSTM has a projection")
    layer, x, state = problem(cell, projection)
    new, computed = one_step(cell, layer, x, state)
    given = tuple(s[None] for s in state)
    _, expected = layer(x[None], given if len(given) > 1 else given[0])
    for ours, theirs in zip(new, expected if isinstance(expected, tuple) else (expected,), strict=True):
        torch.testing.assert_close(ours, theirs[0])
    assert len(computed) == len(cell.computed)


def test_a_step_and_all_it_computes_are_the_references(any_cell):
    cell = any_cell
    layer, x, state = problem(cell, batch=1)
    new, computed = one_step(cell, layer, x, state)
    found = {name: value[0].detach().numpy() for name, value in zip(cell.computed, computed, strict=True)}
    own = {name.removesuffix("_l0"): p.detach().numpy() for name, p in layer.named_parameters()}
    before = [s[0].numpy() for s in state]
    if cell.name == "rnn":
        bias = own["bias_ih"] + own["bias_hh"]
        net = reference.Network(own["weight_ih"], own["weight_hh"], np.eye(4), bias, nonlinearity=cell.nonlinearity)
        expected = {"h": reference.step(net, x[0].numpy(), before[0])}
    else:
        parameters, step = getattr(reference, cell.title), getattr(reference, f"{cell.name}_step")
        expected = step(parameters(**own), x[0].numpy(), *before)._asdict()
        if "q" in expected:
            expected["hn"] = expected.pop("q")
    np.testing.assert_allclose(new[0][0].detach().numpy(), expected["h"], atol=1e-12)
    for name in {*cell.gates, *found} & {*expected}:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-12, err_msg=name)
    assert set(cell.gates) <= set(found) and {*expected} - {"h"} <= {*found}
    for gate in cell.gates:  # each gate follows from its sum
        total = found["a" if cell.name == "rnn" else f"a_{gate}"]
        f = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}[cell.nonlinearity]
        np.testing.assert_allclose(found[gate], f(total) if gate == cell.candidate else reference.sigmoid(total))


def test_a_step_is_differentiable_twice_and_under_vmap(any_cell):
    cell = any_cell
    layer, x, state = problem(cell, hidden=2, inputs=2, batch=2, seed=2)
    leaves = [x.requires_grad_(), *(s.requires_grad_() for s in state)]

    def f(x, *state):
        return one_step(cell, layer, x, state)[0]

    assert torch.autograd.gradcheck(f, leaves)
    assert torch.autograd.gradgradcheck(f, leaves)
    many = torch.vmap(f)(*(leaf[None].expand(3, *leaf.shape) for leaf in leaves))
    for whole, alone in zip(many, f(*leaves), strict=True):
        torch.testing.assert_close(whole, alone.expand_as(whole))


def test_the_keeping_gate_keeps_the_state(any_cell):
    cell = any_cell
    if cell.keeper is None:
        pytest.skip("no gate keeps the state")
    hidden, kept = 4, torch.randn(2, 4)
    u = torch.full((2, len(cell.gates) * hidden), -50.0)
    u[:, cell.rows(cell.keeper, hidden)] = 50.0
    new, _ = cell.step(torch.zeros_like(u), u, (torch.zeros(2, 4), kept) if "c" in cell.states else (kept,))
    torch.testing.assert_close(new[-1], kept)


def test_the_slope_is_the_derivative_of_the_nonlinearity(any_cell):
    cell = any_cell
    a = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    value = {"tanh": torch.tanh, "relu": torch.relu}[cell.nonlinearity](a)
    torch.testing.assert_close(cell.slope(value.detach()), torch.autograd.grad(value.sum(), a)[0])


def test_biases_share_their_gradient_where_the_products_are_only_summed(cell):
    layer, x, _ = problem(cell)
    layer(x[None])[0].sum().backward()
    assert torch.equal(layer.bias_ih_l0.grad, layer.bias_hh_l0.grad) == cell.summed


def test_the_step_is_what_layers_trace(cell):
    layer, x, state = problem(cell)
    given = tuple(s[None] for s in state)
    trace = nn.accelerate_(layer).trace(x[None], given if len(given) > 1 else given[0])["l0"]
    _, computed = one_step(cell, layer, x, state)
    assert set(trace) == {"h", *cell.computed}
    for name, value in zip(cell.computed, computed, strict=True):
        torch.testing.assert_close(trace[name][0], value)


def test_nobody_else_counts_gates_or_writes_the_equations():
    """The facts of a cell are in cells.py, in reference/ (the oracle) and in JAX's equations of the benchmark."""
    counts = re.compile(
        r"""["'](rnn|gru|lstm)["']: *[134]\b|\b[134]: *\(?["'][a-zA-Z]|(?<![-\w.])[34] \* (H|hidden|size)\b"""
    )
    equations = re.compile(r"sigmoid\(")
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name == "cells.py" or name.startswith("reference/") or name == "bench/peers.py":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if counts.search(line) or equations.search(line):
                found.append(f"{name}:{number}: {line.strip()}")
    allowed = {"kernels", "flow/recurrence/cells.py"}  # what the engine keeps of a step; the adjoint, a derivative
    assert not [line for line in found if not any(line.startswith(a) for a in allowed)], found


def test_the_engine_takes_every_cell(cell):
    if not kernels.available():
        pytest.skip("the engine was not built")
    layer, x, _ = problem(cell)
    ours = nn.accelerate_(copy.deepcopy(layer))
    assert nn.explain(ours, x[None]).path == "engine"
    torch.testing.assert_close(ours(x[None])[0], layer(x[None])[0])
