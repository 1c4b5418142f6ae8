"""Loops over single steps, recorded in blocks: the same numbers as autograd, whatever happens between the steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from twin import norms

import retrograde as rg

T, B, INPUTS, H = 20, 3, 2, 4  # the first step, blocks of 8 and 9, and part of a third
KINDS = ("RNN", "GRU", "LSTM")
State = Any
Step = Callable[
    [Tensor, State], tuple[Tensor, State]
]  # x_t `(B, I)` and the state to the output `(B, H)` and the state
Loop = Callable[[Step, Tensor], Tensor]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def squares(output: Tensor) -> Tensor:
    return (output.square() * torch.linspace(0.5, 2, output.shape[-1], dtype=output.dtype)).sum(-1)


class Twin(nn.Module):
    """A cell in plain operators that keeps its states: h, or h and c as independent coordinates."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, state: State = None) -> State:
        cell = self.cell
        zeros = x.new_zeros(len(x), cell.hidden_size)
        h, c = (zeros, zeros) if state is None else state if isinstance(state, tuple) else (state, zeros)
        a, b = (
            nn.functional.linear(x, cell.weight_ih, cell.bias_ih),
            nn.functional.linear(h, cell.weight_hh, cell.bias_hh),
        )
        if isinstance(cell, nn.RNNCell):
            self.seen.append((a + b).tanh())
            return self.seen[-1].clone()
        if isinstance(cell, nn.GRUCell):
            (ar, az, an), (br, bz, bn) = a.chunk(3, -1), b.chunk(3, -1)
            z = (az + bz).sigmoid()
            self.seen.append((1 - z) * (an + (ar + br).sigmoid() * bn).tanh() + z * h)
            return self.seen[-1].clone()
        i, f, g, o = (a + b).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        self.seen.append(torch.cat([o.sigmoid() * c.tanh(), c], -1))
        return tuple(self.seen[-1].tensor_split([cell.hidden_size], -1))


def by_cell(cell: nn.Module) -> Step:
    def step(x: Tensor, state: State) -> tuple[Tensor, State]:
        state = cell(x, state)
        return (state[0] if isinstance(state, tuple) else state), state

    return step


def by_twin(twin: Twin, *, layer: bool) -> Step:
    """The output of a layer and its final state are two tensors."""
    run = by_cell(twin)

    def step(x: Tensor, state: State) -> tuple[Tensor, State]:
        output, state = run(x, state)
        return (twin.seen[-1][:, :H].clone() if layer else output), state

    return step


def by_layer(layer: nn.RNNBase) -> Step:
    def step(x: Tensor, state: State) -> tuple[Tensor, State]:
        output, state = layer(x.unsqueeze(1 if layer.batch_first else 0), state)
        return output.squeeze(1 if layer.batch_first else 0), state

    return step


def pair(kind: str, how: str, inputs: int = INPUTS) -> tuple[nn.Module, Step, Twin]:
    """A module, a function that runs one step of it, and the same network under autograd."""
    cell = getattr(nn, f"{kind}Cell")(inputs, H, dtype=torch.float64)
    if how == "cell":
        return cell, by_cell(cell), Twin(cell)
    layers = rg.nn if how == "ours" else nn
    layer = getattr(layers, kind)(inputs, H, batch_first=how == "batch_first", dtype=torch.float64)
    with torch.no_grad():
        for name, p in cell.named_parameters():
            getattr(layer, f"{name}_l0").copy_(p)
    return layer, by_layer(layer), Twin(cell)


def h_of(state: State) -> Tensor:
    return state[0] if isinstance(state, tuple) else state


def with_h(state: State, h: Tensor) -> State:
    return (h, state[1]) if isinstance(state, tuple) else h


def plain(step: Step, x: Tensor) -> Tensor:
    state, outputs = None, []
    for x_t in x:
        output, state = step(x_t, state)
        outputs.append(output)
    return torch.stack(outputs)


def from_states(step: Step, x: Tensor) -> Tensor:
    state, outputs = None, []
    for x_t in x:
        _, state = step(x_t, state)
        h = h_of(state)
        outputs.append(h[0] if h.dim() == 3 else h)
    return torch.stack(outputs)


def with_cells_in_sight(step: Step, x: Tensor) -> Tensor:
    """The output includes the last state: of an LSTM the cell state, which otherwise only passes from step to step."""
    state, outputs = None, []
    for x_t in x:
        output, state = step(x_t, state)
        last = state[-1] if isinstance(state, tuple) else state
        outputs.append(output + (last[0] if last.dim() == 3 else last))
    return torch.stack(outputs)


def one_input_buffer(step: Step, x: Tensor) -> Tensor:
    buffer, state, outputs = x.new_zeros(x.shape[1:]), None, []
    for x_t in x:
        buffer.copy_(x_t)
        output, state = step(buffer, state)
        outputs.append(output)
    return torch.stack(outputs)


def written_into(step: Step, x: Tensor) -> Tensor:
    """A copy of each output is scaled in place."""
    state, outputs = None, []
    for x_t in x:
        output, state = step(x_t, state)
        outputs.append(output * 1)
        outputs[-1].mul_(1.5)
    return torch.stack(outputs)


def state_written_into(step: Step, x: Tensor) -> Tensor:
    state, outputs = None, []
    for k, x_t in enumerate(x):
        output, state = step(x_t, state)
        outputs.append(output + 0)
        if k == 14:
            h_of(state).mul_(0.5)
    return torch.stack(outputs)


def attention(step: Step, x: Tensor) -> Tensor:
    outputs = plain(step, x)
    weights = torch.einsum("tbh,sbh->tbs", outputs, outputs).softmax(-1)
    return outputs + torch.einsum("tbs,sbh->tbh", weights, outputs)


def cumulative(step: Step, x: Tensor) -> Tensor:
    return plain(step, x).cumsum(0)


def masked(step: Step, x: Tensor) -> Tensor:
    """The state is kept where a mask says so."""
    state, outputs = None, []
    for k, x_t in enumerate(x):
        output, new = step(x_t, state)
        live = torch.arange(len(x_t)).unsqueeze(1) * 9 + 5 > k
        state = with_h(new, torch.where(live, h_of(new), h_of(state))) if state is not None else new
        outputs.append(output)
    return torch.stack(outputs)


def now_and_then_reset(step: Step, x: Tensor) -> Tensor:
    state, outputs = None, []
    for k, x_t in enumerate(x):
        output, state = step(x_t, state)
        if k in (11, 15):
            state = with_h(state, h_of(state) * (torch.arange(len(x_t)).unsqueeze(1) > 0))
        outputs.append(output)
    return torch.stack(outputs)


def fed_back(step: Step, x: Tensor) -> Tensor:
    """Every third input is computed from the previous output."""
    state, outputs = None, []
    for k, x_t in enumerate(x):
        x_t = outputs[-1][:, : x_t.shape[1]] + 0.1 * x_t if k % 3 == 2 else x_t
        output, state = step(x_t, state)
        outputs.append(output)
    return torch.stack(outputs)


def looking_back(step: Step, x: Tensor) -> Tensor:
    """From the eleventh step on, inputs depend on all outputs before them."""
    state, outputs = None, []
    for x_t in x:
        seen = torch.stack(outputs).mean(0)[:, : x_t.shape[1]] if len(outputs) > 9 else 0
        output, state = step(x_t + seen, state)
        outputs.append(output)
    return torch.stack(outputs)


def hooked(step: Step, x: Tensor) -> Tensor:
    """A hook on each state scales its gradient."""
    state, outputs = None, []
    for x_t in x:
        output, state = step(x_t, state)
        h_of(state).register_hook(lambda g: 0.5 * g)
        outputs.append(output)
    return torch.stack(outputs)


def hooked_copy(step: Step, x: Tensor) -> Tensor:
    state, outputs = None, []
    for x_t in x:
        output, state = step(x_t, state)
        h = h_of(state).clone()
        h.register_hook(lambda g: 0.5 * g)
        state = with_h(state, h)
        outputs.append(output)
    return torch.stack(outputs)


def hooked_later(step: Step, x: Tensor) -> Tensor:
    """The same, but the hook is registered after the next step has run."""
    state, before, outputs = None, None, []
    for x_t in x:
        output, state = step(x_t, state)
        if before is not None:
            h_of(before).register_hook(lambda g: 0.5 * g)
        before = state
        outputs.append(output)
    return torch.stack(outputs)


def differentiating(step: Step, x: Tensor) -> Tensor:
    """The output contains a number, as a constant, from a gradient through earlier steps."""
    state, outputs, states = None, [], []
    for x_t in x:
        output, state = step(x_t, state)
        outputs.append(output)
        states.append(h_of(state))
    (g,) = torch.autograd.grad(outputs[-1].sum(), states[-3], retain_graph=True)
    return torch.stack(outputs) * g.norm().detach()


LOOPS = [
    plain,
    from_states,
    with_cells_in_sight,
    one_input_buffer,
    written_into,
    attention,
    cumulative,
    masked,
    now_and_then_reset,
    fed_back,
    looking_back,
]
SHORT = {plain, from_states, one_input_buffer, written_into}


def check(module: nn.Module, step: Step, twin: Twin, loop: Loop, *, final: bool = False) -> Any:
    x = randn(T, B, INPUTS)

    def loss(o: Tensor) -> Tensor:
        return squares(o)[-1] if final else squares(o)

    flow = rg.gradient_flow(lambda x: loop(step, x), x, loss=loss, reduce="none", module=module)
    twin.seen.clear()
    losses = loss(loop(by_twin(twin, layer=isinstance(module, nn.RNNBase)), x))
    expected = norms(losses[None] if final else losses, {"l0": twin.seen})
    assert flow.layers == ["l0"]
    np.testing.assert_allclose(flow.norms, expected, rtol=1e-9, atol=1e-300)
    return flow


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", ["cell", "layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_over_steps_equals_its_twin(kind: str, how: str, loop: Loop) -> None:
    flow = check(*pair(kind, how), loop)
    assert flow.linearization is not None
    if loop in SHORT:  # measured as the whole is
        assert flow.linearization.local is not None and not flow.notes


@pytest.mark.parametrize("how", ["cell", "layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_contributions_are_of_the_inputs_that_a_step_had(kind: str, how: str) -> None:
    """The inputs are those at the time of the step, not what their buffer contains at the end."""
    module, step, _ = pair(kind, how)
    x, name = randn(T, B, INPUTS), f"weight_ih{'' if how == 'cell' else '_l0'}"
    flows = [
        rg.gradient_flow(lambda x, loop=loop: loop(step, x), x, loss=squares, module=module)
        for loop in (plain, one_input_buffer)
    ]
    first, second = (flow.share_by_lag(name) for flow in flows)
    np.testing.assert_allclose(first, second, rtol=1e-9)


@pytest.mark.parametrize("how", ["batch_first", "ours"])
@pytest.mark.parametrize("kind", KINDS)
def test_so_does_one_with_the_batch_first_and_one_of_our_layers(kind: str, how: str) -> None:
    for loop in (plain, cumulative):
        check(*pair(kind, how), loop)


@pytest.mark.parametrize("kind", KINDS)
def test_so_does_a_loss_at_the_last_step_alone(kind: str) -> None:
    for how in ("cell", "layer"):
        check(*pair(kind, how), plain, final=True)


@pytest.mark.parametrize("loop", [hooked, hooked_copy, hooked_later, differentiating, state_written_into])
def test_so_does_a_loop_that_only_a_node_for_every_step_shows(loop: Loop) -> None:
    """A hook on a state, a gradient that the model computes, and an in-place write into a state."""
    for how in ("cell", "layer"):
        check(*pair("GRU", how), loop)


class Stacked(nn.Module):
    """Two cells, one above the other, with a given function between them."""

    def __init__(self, steps: list[Step], between: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__()
        self.steps, self.between = steps, between

    def forward(self, x: Tensor) -> Tensor:
        states: list[State] = [None, None]
        outputs = []
        for k, x_t in enumerate(x):
            low, states[0] = self.steps[0](x_t, states[0])
            high, states[1] = self.steps[1](self.between(k, low), states[1])
            outputs.append(high)
        return torch.stack(outputs)


def check_stacked(kind: str, how: str, between: Callable[[int, Tensor], Tensor], loss: Loop | None = None) -> Any:
    (low, low_step, low_twin), (high, high_step, high_twin) = pair(kind, how), pair(kind, how, H)
    x = randn(T, B, INPUTS)
    model = Stacked([low_step, high_step], between)
    model.low, model.high = low, high
    flow = rg.gradient_flow(model, x, loss=loss or squares, reduce="none")
    layer = isinstance(low, nn.RNNBase)
    twin = Stacked([by_twin(low_twin, layer=layer), by_twin(high_twin, layer=layer)], between)
    for cell in (low_twin.cell, high_twin.cell):
        cell.requires_grad_(False)
    expected = norms(
        (loss or squares)(twin(x.clone().requires_grad_())), {"low": low_twin.seen, "high": high_twin.seen}
    )
    np.testing.assert_allclose(flow.norms, expected, rtol=1e-9, atol=1e-300)
    return flow


@pytest.mark.parametrize("how", ["cell", "layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_in_one_loop_are_a_stack(kind: str, how: str) -> None:
    flow = check_stacked(kind, how, lambda k, h: h)
    assert flow.linearization is not None
    if how == "cell":
        assert flow.linearization.local is not None and not flow.notes
    check_stacked(kind, how, lambda k, h: h, lambda o: squares(o.cumsum(0)))


def written_into_later() -> Callable[[int, Tensor], Tensor]:
    """The input of the upper cell is written in place after the next step has run."""
    given: list[Tensor] = []

    def between(k: int, h: Tensor) -> Tensor:
        if k:
            given.pop().mul_(3.0)
        given.append(h * 2)
        return given[-1]

    return between


@pytest.mark.parametrize("how", ["cell", "layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_so_are_two_with_something_between(kind: str, how: str) -> None:
    norm, masks = nn.LayerNorm(H, dtype=torch.float64), 2.0 * (torch.rand(T, B, H) > 0.5)
    check_stacked(kind, how, lambda k, h: norm(h))
    check_stacked(kind, how, lambda k, h: h * masks[k])  # dropout
    check_stacked(kind, how, lambda k, h: norm(h), lambda o: squares(o.cumsum(0)))
    check_stacked(kind, how, lambda k, h: norm(h) if k % 7 else h)
    check_stacked(kind, how, written_into_later())


class Masked(nn.Module):
    """A parametrization that drops different weights each time."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (torch.rand_like(weight) > 0.3)


def test_weights_that_are_made_afresh_at_every_step_are_followed() -> None:
    cell, step, twin = pair("GRU", "cell")
    torch.nn.utils.parametrize.register_parametrization(cell, "weight_hh", Masked())
    x = randn(T, B, INPUTS)
    torch.manual_seed(1)
    flow = rg.gradient_flow(lambda x: plain(step, x), x, loss=squares, reduce="none", module=cell)
    torch.manual_seed(1)
    drawn = [cell.weight_hh.detach() for _ in x]
    outputs, state = [], None
    for x_t, weight in zip(x, drawn, strict=True):
        fixed = nn.GRUCell(INPUTS, H, dtype=torch.float64)
        with torch.no_grad():
            for name in ("weight_ih", "bias_ih", "bias_hh"):
                getattr(fixed, name).copy_(getattr(cell, name))
            fixed.weight_hh.copy_(weight)
        twin.cell = fixed
        state = twin(x_t, state)
        outputs.append(state)
    expected = norms(squares(torch.stack(outputs)), {"l0": twin.seen})
    np.testing.assert_allclose(flow.norms, expected, rtol=1e-9, atol=1e-300)


def test_users_of_a_module_see_no_difference_afterwards() -> None:
    """Calls are watched only while a measurement runs, and only in its thread."""
    before = nn.GRUCell.__call__
    cell, step, _ = pair("GRU", "cell")
    x = randn(T, B, INPUTS)
    expected = plain(step, x)
    calls = itertools.count()

    def model(x: Tensor) -> Tensor:
        output = plain(step, x)
        assert torch.equal(output, expected)
        return output

    def hook(*_: Any) -> None:
        next(calls)

    rg.gradient_flow(model, x, loss=squares, module=cell)
    assert nn.GRUCell.__call__ is before
    cell.register_forward_hook(hook)
    rg.gradient_flow(model, x, loss=squares, module=cell)
    assert next(calls) == T  # a hook of the user's runs at every step


def test_one_step_alone_is_a_loop_too() -> None:
    cell, step, _ = pair("RNN", "cell")
    flow = rg.gradient_flow(lambda x: plain(step, x), randn(1, B, INPUTS), loss=squares, module=cell)
    assert flow.linearization is not None and flow.linearization.local is not None and not flow.notes
