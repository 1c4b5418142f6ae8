"""Cells that only these tests define, as one `Cell` with one torch step each: all that torch's cells can do, they can.

Also the two ways to the coefficients of a step: by autograd, as for these, and in closed form, as for torch's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import linear

import retrograde as rg
from retrograde import cells
from retrograde.bench import measure
from retrograde.bench.points import Point
from retrograde.doctor import TrainingRecord
from retrograde.errors import FlowError, OptionError
from retrograde.flow.recurrence import adjoint, coefficients
from retrograde.flow.state_dict import find_recurrent
from retrograde.laboratory.measured import measure as drawn_by_the_lab
from retrograde.nn.stepwise import Stepwise
from retrograde.options import OPTIONS

T, B, H = 6, 3, 4
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def minimal(x, u, state, norm):
    """The minimal gated unit: no gate keeps the whole state at 1, and a gate multiplies a product."""
    (h,) = state
    (x_f, x_n), (u_f, u_n) = x.chunk(2, -1), u.chunk(2, -1)
    a_f = x_f + u_f
    f = a_f.sigmoid()
    a_n = x_n + f * u_n
    n = a_n.tanh()
    return ((1 - f) * h + f * n,), (f, n, a_f, a_n, u_n)


def two(x, u, state, norm):
    """Two states, each of which reaches both of the next, and h is made from c."""
    h, c = state
    (x_k, x_n), (u_k, u_n) = x.chunk(2, -1), u.chunk(2, -1)
    a_k = x_k + u_k
    k = a_k.sigmoid()
    a_n = x_n + k * u_n
    n = a_n.tanh()
    c = k * c + (1 - k) * n + 0.1 * h
    return ((k * c).tanh() + 0.3 * h * state[1], c), (k, n, a_k, a_n)


def mixing(x, u, state, norm):
    """No unit has its own state: not elementwise."""
    a = x + u
    return (a.softmax(-1),), (a.softmax(-1), a)


MGU = cells.Cell("mgu", 4, "MGU", "tanh", ("f", "n"), "n", None, ("h",), ("f", "n", "a_f", "a_n", "hn"), False, minimal)
TWO = cells.Cell("two", 5, "TWO", "tanh", ("k", "n"), "n", "k", ("h", "c"), ("k", "n", "a_k", "a_n"), False, two)
# As many gates as a GRU, none that keeps the state.
THREE = replace(MGU, name="three", mode="THREE", gates=("f", "n", "a"))
MIXING = cells.Cell("mixing", 6, "MIXING", "tanh", ("n",), "n", None, ("h",), ("n", "a_n"), True, mixing)


@pytest.fixture(autouse=True, scope="module")
def known():
    """As if these cells stood in ``cells.py``."""
    with pytest.MonkeyPatch.context() as patch:
        for cell in (MGU, TWO, THREE, MIXING):
            patch.setitem(cells.BY_NAME, cell.name, cell)
            patch.setitem(cells.BY_MODE, cell.mode, cell)
        patch.setitem(OPTIONS, "cell", replace(OPTIONS["cell"], kind=Literal[tuple(cells.BY_NAME)]))
        yield


def drawn(cell, layers=1, **options):
    torch.manual_seed(0)
    layer = rg.nn.recurrent_layer(2, H, cell=cell, num_layers=layers, **options).double()
    return layer, torch.randn(T, B, 2, dtype=torch.float64)


def losses(output):
    return output[0].square().sum(-1)


def steps(layer, x, own=lambda k, p: p, index=0, held=None):
    """States after each step, written out; ``own`` gives step k its parameters, ``held`` collects what is passed on."""
    cell, state, found = layer.cell, (x.new_zeros(x.shape[1], H),) * len(layer.cell.states), []
    for k, x_k in enumerate(x):
        w = [own(k, getattr(layer, f"{n}_l{index}")) for n in NAMES]
        found.append(cell.step(linear(x_k, w[0], w[2]), linear(state[0], w[1], w[3]), state)[0])
        state = tuple(s.view_as(s) for s in found[-1])  # h and c as independent coordinates
        if held is not None:
            held.append(state)
    return found


@pytest.mark.parametrize("state", ["hc", "h", "c"])
@pytest.mark.parametrize("cell", ["mgu", "two"])
def test_norms_are_those_of_the_steps_written_out(cell, state):
    layer, x = drawn(cell)
    if cell == "mgu" and state == "c":
        with pytest.raises(FlowError, match="only an LSTM"):
            rg.gradient_flow(layer, x, loss=losses, state=state)
        return
    flow = rg.gradient_flow(layer, x, loss=losses, state=state)
    assert flow.cells == [cell] and not flow.notes
    held = []
    raw = steps(layer, x, held=held)
    for t in range(T):
        for k in range(t + 1):
            of = [raw[k][1]] if state == "c" else held[k][: len(state)]  # h_k follows the raw c_k
            loss = (raw if state == "c" else held)[t][0].square().sum()
            grads = torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True, materialize_grads=True)
            expected = torch.cat(grads, -1).norm(dim=-1).mean().item()
            assert flow.norms[0, t, k] == pytest.approx(expected, rel=1e-10, abs=1e-14), (t, k)


@pytest.mark.parametrize("cell", ["mgu", "two"])
def test_jacobians_gates_and_lyapunov_exponents_of_two_layers_saved_or_not(cell, tmp_path):
    layer, x = drawn(cell, layers=2)
    flow = rg.gradient_flow(layer, x, loss=losses)
    flow.save(tmp_path / "flow")
    states = steps(layer, x)
    upper = torch.stack([s[0] for s in states])
    inner = steps(layer, upper.detach(), index=1)

    def next_of(k):
        w = [getattr(layer, f"{n}_l1") for n in NAMES]

        def f(s):
            own = tuple(s.split(H))
            return torch.cat(layer.cell.step(linear(upper[k, 0], w[0], w[2]), linear(own[0], w[1], w[3]), own)[0])

        return f

    jacobians = [
        torch.autograd.functional.jacobian(next_of(k), torch.cat([s[0].detach() for s in inner[k - 1]]))
        for k in range(1, T)
    ]
    for own in (flow, rg.GradientFlow.load(tmp_path / "flow")):
        np.testing.assert_allclose(
            own.jacobian_norms("l1")[1:, 0], [torch.linalg.matrix_norm(j, 2).item() for j in jacobians], rtol=1e-10
        )
        product = torch.eye(len(jacobians[0]), dtype=torch.float64)
        for jacobian in jacobians:
            product = jacobian @ product
        np.testing.assert_allclose(own.singular_values(0, T - 1, "l1")[0], torch.linalg.svdvals(product), atol=1e-12)
        assert np.isfinite(own.lyapunov_exponents("l1")).all()
        gates = own.gates("l0")
        assert list(gates) == list(layer.cell.gates[:1])
        w = [getattr(layer, f"{n}_l0") for n in NAMES]
        before = torch.cat([torch.zeros(1, B, H), upper[:-1]])
        a = linear(x, w[0], w[2]) + linear(before, w[1], w[3])
        (gate,) = gates.values()
        assert gate.mean == pytest.approx(a[..., :H].sigmoid().mean().item(), rel=1e-12)
        assert (gate.time_constant is None) == (cell == "mgu")
        with pytest.raises(FlowError, match="a theorem about the vanilla network; for a"):
            own.bounds("l0")


@pytest.mark.parametrize("cell", ["mgu", "two"])
def test_contributions_are_those_of_a_twin_with_parameters_at_every_step(cell):
    layer, x = drawn(cell)
    flow = rg.gradient_flow(layer, x, loss=losses)
    copies = {}

    def own(k, p):
        return copies.setdefault((k, id(p)), p.detach().clone().requires_grad_())

    outputs = torch.stack([s[0] for s in steps(layer, x, own)])
    for name, p in layer.named_parameters():
        mine = [copies[k, id(p)] for k in range(T)]
        rows = [
            torch.autograd.grad(
                outputs[t].square().sum(), mine, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for t in range(T)
        ]
        found = flow.contributions(name)
        for lag in range(T):
            part = sum(rows[t][t - lag] for t in range(lag, T))
            assert found.norm[lag] == pytest.approx(part.norm().item(), rel=1e-10)
        second = flow.contributions(name, layer.cell.gates[1])
        assert second.norm[0] == pytest.approx(sum(rows[t][t] for t in range(T))[H:].norm().item(), rel=1e-10)


def test_packed_unbatched_batch_first_and_bidirectional_calls_are_measured():
    layer, x = drawn("mgu", bidirectional=True)
    longest = rg.gradient_flow(layer, x[:, :1], loss=losses)
    np.testing.assert_allclose(
        rg.gradient_flow(layer, x[:, 0], loss=lambda o: losses(o).unsqueeze(-1)).norms, longest.norms
    )
    packed = nn.utils.rnn.pack_padded_sequence(x, [3, T, 2], enforce_sorted=False)
    flow = rg.gradient_flow(
        layer, packed, loss=lambda o: nn.utils.rnn.pad_packed_sequence(o[0])[0].square().sum(-1), reduce="none"
    )
    for b, length in enumerate([3, T, 2]):
        alone = rg.gradient_flow(layer, x[:length, b : b + 1], loss=losses)
        np.testing.assert_allclose(flow.norms[:, :length, :length, b], alone.norms, atol=1e-14)
    assert flow.layers == ["l0", "l0_reverse"]
    layer.batch_first = True
    np.testing.assert_allclose(
        rg.gradient_flow(layer, x[:, :1].transpose(0, 1), loss=lambda o: o[0].square().sum(-1).T).norms, longest.norms
    )


def test_a_loop_over_steps_is_measured_as_the_whole_call():
    layer, x = drawn("two")

    def loop(x):
        outputs, state = [], None
        for x_k in x:
            output, state = layer(x_k[None], state)
            outputs.append(output)
        return (torch.cat(outputs),)

    whole, flow = (rg.gradient_flow(model, x, loss=losses) for model in (layer, loop))
    np.testing.assert_allclose(flow.norms, whole.norms, atol=1e-14)
    np.testing.assert_allclose(flow.jacobian_norms(), whole.jacobian_norms(), rtol=1e-12)


def test_a_cell_that_mixes_units_has_no_coefficients_and_is_measured_step_by_step():
    layer, x = drawn("mixing")
    flow = rg.gradient_flow(layer, x, loss=losses)
    assert flow.cells == ["custom"]
    states = steps(layer, x)
    (grad,) = torch.autograd.grad(states[5][0].square().sum(), states[2][0])
    assert flow.norms[0, 5, 2] == pytest.approx(grad.norm(dim=-1).mean().item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_coefficients_in_closed_form_and_by_autograd_are_the_same(kind, monkeypatch):
    torch.manual_seed(0)
    layer, x = getattr(nn, kind)(2, 5, 2, dtype=torch.float64), torch.randn(7, 20, 2, dtype=torch.float64)
    packed = nn.utils.rnn.pack_padded_sequence(x, [7] * 10 + [4] * 10)

    def measures():
        flow = rg.gradient_flow(layer, x, loss=losses)
        padded = rg.gradient_flow(layer, packed, loss=lambda o: nn.utils.rnn.pad_packed_sequence(o[0])[0].sum(-1))
        signal = flow.signal_by_lag("l0")
        yield from (flow.norms, padded.norms, flow.jacobian_norms("l1"), padded.jacobian_norms("l0"))
        yield from (flow.contributions(name).norm for name in flow.parameters)
        yield from (flow.lyapunov_exponents("l1"), signal.statistic, signal.consistency)
        end = rg.gradient_flow(layer, x, loss=lambda o: o[0][-1].sum(-1)).signal_by_lag("l1")
        yield from (end.statistic, rg.gradient_flow(layer, x, loss=losses, state="h").norms)

    closed = list(measures())
    monkeypatch.setattr(coefficients, "_CLOSED", {})
    monkeypatch.setattr(adjoint, "has_engine", lambda stack: False)
    for one, other in zip(closed, measures(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("cell", ["mgu", "two"])
def test_the_need_is_the_lag_of_the_task(cell):
    torch.manual_seed(0)
    x = torch.randint(4, (10, 80))
    model, head = rg.nn.recurrent_layer(4, 12, cell=cell), nn.Linear(12, 4)

    def loss(output):
        found = nn.functional.cross_entropy((1e-3 * head(output[0])).movedim(-1, 1), x.roll(3, 0), reduction="none")
        return found * (torch.arange(10) >= 3).unsqueeze(1)

    found = rg.gradient_flow(model, nn.functional.one_hot(x, 4).float(), loss=loss).signal_by_lag(alpha=1e-4)
    assert found.need == found.peak == 3


def test_bare_weights_are_read_and_a_number_of_gates_that_two_cells_have_is_asked_about():
    layer, x = drawn("mgu", layers=2)
    weights = {f"encoder.{name}": tensor for name, tensor in layer.state_dict().items()}
    with pytest.raises(FlowError, match=r"has 2·H rows, as mgu and two have: say which"):
        find_recurrent(weights)
    [found] = find_recurrent(weights, cell="mgu")
    assert str(found) == "MGU 2 → 4, 2 layers" and found.name == "encoder"
    torch.testing.assert_close(found.module(x)[0], layer(x)[0])
    [found] = find_recurrent(weights | {"encoder.weight_hh_l1": weights["encoder.weight_hh_l1"]}, cell="two")
    assert found.module.cell is TWO
    with pytest.raises(OptionError, match=r"--cell mgu has 2·H rows"):
        find_recurrent(nn.GRU(2, 4).state_dict(), cell="mgu")
    assert isinstance(find_recurrent(nn.GRU(2, 4).state_dict())[0].module, nn.GRU)  # torch's, though THREE has as many
    assert find_recurrent(nn.GRU(2, 4).state_dict(), cell="three")[0].module.cell is THREE


def test_training_prediction_and_the_page(tmp_path):
    (tmp_path / "text.txt").write_text("a new cell reads this again and again. " * 60)
    options = {"hidden_size": 6, "embedding_size": 4, "batch_size": 4, "bptt": 8, "max_steps": 3}
    rg.train(tmp_path / "text.txt", tmp_path / "run", cell="mgu", **options)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "An MGU" in page and "gradient" in page
    with pytest.raises(OptionError, match="has no gate that keeps the state"):
        rg.train(tmp_path / "text.txt", tmp_path / "other", cell="mgu", forget_bias=1.0, **options)


def test_the_benchmark_compares_with_a_plain_loop():
    [found] = measure([Point("two", "train", 2, 5, 3, 2)], threads=1, jax=False, seconds=0.001)
    assert {*found.seconds} == {"retrograde", "torch"} and found.path == "torch"


class Net(nn.Module):
    def __init__(self, cell):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = rg.nn.recurrent_layer(1, 16, cell=cell), nn.Linear(16, 1)

    def forward(self, x):
        return self.head(self.layer(x)[0][-1]).squeeze(-1)


def test_the_doctor_names_the_cause_of_vanishing():
    x = torch.randn(20, 200, 1, generator=torch.Generator().manual_seed(1))
    diagnosis = rg.diagnose(
        Net("mgu"), [(x, x[:2].sum((0, 2)))], lambda o, y: (o - y).square(), record=TrainingRecord(updates=500)
    )
    (finding,) = diagnosis.found("vanishing_hurts")
    assert "what the gates leave of the state before" in finding.message and "keeps too little" in finding.message
    assert finding.numbers["gate"] == pytest.approx(0.5, abs=0.1)  # 1 − f, and what f lets through of n is no memory
    assert not diagnosis.found("stuck_gates")


def test_remedies_and_pictures_that_are_not_known_of_other_cells_are_refused():
    for cell in ("mgu", "three"):
        rg.nn.recurrent_layer(3, 4, cell=cell, init="orthogonal", layer_norm=True)
        for words, options in {
            "has no gate that keeps the state": {"chrono": 10},
            "has gates": {"init": "identity"},
            f"weight drop is for rnn, gru, lstm, not for {cell}": {"weight_drop": 0.5},
        }.items():
            with pytest.raises(OptionError, match=words):
                rg.nn.recurrent_layer(3, 4, cell=cell, **options)
    layer, x = drawn("mgu")
    assert rg.check_gradients(layer, x).ok
    gru = rg.nn.recurrent_layer(3, 4, cell="gru", forget_bias=2.0)
    assert (gru.bias_ih_l0 + gru.bias_hh_l0)[4:8].tolist() == [2, 2, 2, 2]
    assert rg.doctor.remedies.parts.recurrent_parts(gru)[0].cell == "gru"
    assert not rg.doctor.remedies.parts.recurrent_parts(Stepwise(3, 4, cell="three"))  # what would help it is not known
    lab = drawn_by_the_lab(layer, x, loss=losses)
    assert lab.cell is None and lab.layer is None and len(lab.norms) == T * T
