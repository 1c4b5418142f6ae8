"""Where ∂E/∂W comes from, compared with an unrolled network that has its own parameters at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.errors import FlowError
from retrograde.flow.contributions import Truncation

T, B = 6, 3


def head(mixing: bool):
    weights = torch.randn(T, T, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def losses(output: Tensor) -> Tensor:
        mixed = torch.einsum("ts,sbh->tbh", weights, output) if mixing else output
        return mixed.square().sum(-1)

    return losses


def parts(module: nn.RNNBase, x: Tensor, losses) -> dict[str, np.ndarray]:
    """∂E_t/∂(parameter at step k) `(T, T, …)`: the module is applied step by step, with one copy per step."""
    state = None
    outputs, copies = [], []
    for k in range(T):
        own = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
        output, state = torch.func.functional_call(module, own, (x[k : k + 1], state))
        outputs.append(output)
        copies.append(own)
    table = losses(torch.cat(outputs))
    found = {}
    for name, p in module.named_parameters():
        rows = []
        for t in range(T):
            g = torch.autograd.grad(table[t].sum(), [c[name] for c in copies], retain_graph=True, allow_unused=True)
            rows.append(torch.stack([torch.zeros_like(p) if a is None else a for a in g]))
        found[name] = torch.stack(rows).detach().numpy()
    return found


@pytest.mark.parametrize("mixing", [False, True], ids=["local head", "mixing head"])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "projected"])
def test_parts_of_lags_and_pairs_equal_those_of_a_twin_with_parameters_at_every_step(kind: str, mixing: bool) -> None:
    torch.manual_seed(0)
    options = {"proj_size": 3} if kind == "projected" else {}
    module = getattr(nn, "LSTM" if kind == "projected" else kind)(2, 4, 2, dtype=torch.float64, **options)
    x = torch.randn(T, B, 2, dtype=torch.float64)
    flow = rg.gradient_flow(module, x, loss=lambda o: head(mixing)(o[0]))
    expected = parts(module, x, head(mixing))
    assert sorted(flow.parameters) == sorted(expected)
    lag = np.arange(T)[:, None] - np.arange(T)[None, :]
    for name, pairs in expected.items():
        g = pairs.sum((0, 1))
        gates = {"RNN": "h", "GRU": "rzn"}.get(kind, "ifgo") if "hr" not in name else ""
        for i, gate in enumerate([None, *gates] if len(gates) > 1 else [None]):
            rows = slice(None) if gate is None else slice((i - 1) * 4, i * 4)
            own = flow.contributions(name, gate)
            for j, distance in enumerate(own.lags):
                part = pairs[lag == distance].sum(0)[rows]
                np.testing.assert_allclose(own.norm[j], np.linalg.norm(part), rtol=1e-9)
                np.testing.assert_allclose(own.share[j], (part * g[rows]).sum() / (g[rows] ** 2).sum(), atol=1e-12)
            assert own.share.sum() == pytest.approx(1, abs=1e-12)
            by_pair = flow.pair_contributions(name, gate)
            norm = np.sqrt((pairs[:, :, rows] ** 2).reshape(T, T, -1).sum(-1))
            np.testing.assert_allclose(by_pair.norm, norm, rtol=1e-7, atol=1e-12)
            assert by_pair.share.sum() == pytest.approx(1, abs=1e-12)
            dot = (pairs[:, :, rows] * g[rows]).reshape(T, T, -1).sum(-1)
            np.testing.assert_allclose(by_pair.share, dot / (g[rows] ** 2).sum(), atol=1e-12)


@pytest.mark.parametrize("mixing", [False, True], ids=["local head", "mixing head"])
def test_truncation_equals_the_gradient_of_the_kept_steps(mixing: bool) -> None:
    torch.manual_seed(0)
    module = nn.GRU(2, 4, 2, dtype=torch.float64)
    x = torch.randn(T, B, 2, dtype=torch.float64)
    found = rg.gradient_flow(module, x, loss=lambda o: head(mixing)(o[0])).truncation()
    pairs = parts(module, x, head(mixing))
    lag = np.arange(T)[:, None] - np.arange(T)[None, :]
    whole = np.concatenate([p.sum((0, 1)).ravel() for p in pairs.values()])
    for length, norm, angle, error in zip(found.length, found.norm, found.angle, found.error, strict=True):
        kept = np.concatenate([p[lag < length].sum(0).ravel() for p in pairs.values()])
        assert norm == pytest.approx(np.linalg.norm(kept) / np.linalg.norm(whole), rel=1e-9)
        assert error == pytest.approx(np.linalg.norm(whole - kept) / np.linalg.norm(whole), rel=1e-9, abs=1e-15)
        cosine = kept @ whole / np.linalg.norm(kept) / np.linalg.norm(whole)
        assert np.cos(np.radians(angle)) == pytest.approx(cosine, abs=1e-9)
    assert found.length[-1] == T and found.share[-1] == pytest.approx(1)
    for fraction in (0.5, 0.9, 0.999):
        shortest = found.shortest(fraction)
        assert (np.abs(found.share[shortest - 1 :] - 1) <= 1 - fraction + 1e-9).all()
        assert shortest == 1 or abs(found.share[shortest - 2] - 1) > 1 - fraction


def test_parameters_are_found_by_the_end_of_their_name() -> None:
    model = nn.ModuleDict({"encoder": nn.GRU(2, 3), "decoder": nn.GRU(3, 3)})
    x = torch.randn(4, 2, 2)
    flow = rg.gradient_flow(lambda a: model["decoder"](model["encoder"](a)[0])[0], x, loss=lambda o: o.sum(-1))
    assert len(flow.layers) == 2
    whole = nn.Sequential()
    whole.encoder, whole.decoder = model["encoder"], model["decoder"]
    whole.forward = lambda a: whole.decoder(whole.encoder(a)[0])[0]
    flow = rg.gradient_flow(whole, x, loss=lambda o: o.sum(-1))
    assert flow.layers == ["encoder.l0", "decoder.l0"]
    assert flow.share_by_lag("encoder.weight_hh_l0").sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(rg.errors.FlowError, match="is the name of several"):
        flow.share_by_lag("weight_hh_l0")
    with pytest.raises(rg.errors.FlowError, match="not a parameter"):
        flow.share_by_lag("encoder.weight_hh_l7")
    with pytest.raises(rg.errors.FlowError, match="no gate 'f'"):
        flow.share_by_lag("decoder.weight_hh_l0", gate="f")


@pytest.mark.parametrize("mixing", [False, True], ids=["local head", "mixing head"])
def test_asked_after_training_went_on_a_flow_answers_for_the_weights_it_measured(mixing: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.RNN(2, 3, dtype=torch.float64))
    model.linear = nn.Linear(3, 4, dtype=torch.float64)
    model.forward = lambda a: head(mixing)(model.linear(model[0](a)[0]))
    x = torch.randn(T, B, 2, dtype=torch.float64)
    measure = lambda: rg.gradient_flow(model, x, loss=lambda losses: losses)  # noqa: E731
    before = measure().truncation()
    flow = measure()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model(x).sum().backward()
    optimiser.step()
    np.testing.assert_array_equal(flow.truncation().angle, before.angle)
    assert not np.array_equal(measure().truncation().angle, before.angle)


def test_an_input_written_to_in_place_is_named() -> None:
    model, x, scale = nn.LSTM(2, 3), torch.randn(5, 2, 2), torch.ones(5, 2, 3)
    flow = rg.gradient_flow(model, x, loss=lambda o: (o[0] * scale).cumsum(0).square().sum(-1))
    scale.mul_(2)
    with pytest.raises(rg.errors.FlowError, match=r"\(5, 2, 3\) .* written to in place.*measure again"):
        flow.truncation()


def test_adjoints_of_a_step_loop_are_kept_within_a_bound_on_memory() -> None:
    """The block of losses is as large as for a call over all steps, not as for a call of one step."""
    cell, rnn, x = nn.RNNCell(2, 64), nn.RNN(2, 64), torch.randn(300, 16, 2)

    def loop(x: Tensor) -> Tensor:
        h, rows = x.new_zeros(16, 64), []
        for row in x:
            h = cell(row, h)
            rows.append(h)
        return torch.stack(rows).cumsum(0)

    def squares(output: Tensor) -> Tensor:
        return output.square().sum(-1)

    flow = rg.gradient_flow(loop, x, loss=squares, targets=range(290, 300))
    whole = rg.gradient_flow(lambda x: rnn(x)[0].cumsum(0), x, loss=squares, targets=range(290, 300))
    for own in (flow, whole):
        assert own.linearization is not None and own.linearization.graph is not None
    blocks = [own.linearization.graph.block_kept for own in (flow, whole)]
    assert blocks[0] == blocks[1] < 64
    assert max(len(rows) for rows, _ in flow.linearization.by_target()) <= blocks[0]


def test_the_shortest_truncation_keeps_99_percent_by_default() -> None:
    shares = np.array([0.5, 0.985, 0.992, 1.012, 0.995, 1.0])
    ones = np.ones(6)
    found = Truncation(np.arange(1, 7), ones, 0 * ones, 0 * ones, shares)
    # It is within 1 % at L = 3, leaves that range at L = 4, and stays from L = 5 on.
    assert found.shortest() == found.shortest(0.99) == 5
    assert [found.shortest(f) for f in (0.4, 0.5, 0.98, 0.994, 0.999, 1)] == [1, 1, 2, 5, 6, 6]
    for wrong in (0, 1.01, -1):
        with pytest.raises(FlowError, match="fraction"):
            found.shortest(wrong)


def test_a_truncation_to_less_than_the_first_lag_keeps_nothing_and_has_no_angle() -> None:
    torch.manual_seed(0)
    module, x = nn.RNN(2, 3), torch.randn(T, B, 2)

    def delayed(output: Any) -> Tensor:
        """The loss of a step looks at the state two steps before it."""
        return torch.cat([torch.zeros(2, B), output[0].square().sum(-1)[:-2]])

    found = rg.gradient_flow(module, x, loss=delayed).truncation()
    assert found.norm[:2].tolist() == [0, 0] and found.share[:2].tolist() == [0, 0] and found.error[0] == 1
    assert np.isnan(found.angle[:2]).all() and (found.angle[2:] >= 0).all()
