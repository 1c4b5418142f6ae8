"""A measurement leaves no trace: difficult models train bit for bit as they do without it."""

from __future__ import annotations

import collections
import copy
import functools
import random
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import retrograde as rg

T, B, D, H = 6, 4, 3, 5


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*weight_norm.*|.*flatten.*|.*non-contiguous.*")
        yield


# --- The zoo --------------------------------------------------------------------------------------------------------


class Stateful(nn.Module):
    """Carries its state from batch to batch; ``how`` says how the state is detached from the last graph."""

    def __init__(self, how: str = "detach") -> None:
        super().__init__()
        self.rnn, self.how = nn.LSTM(D, H), how
        self.state: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.state is not None and self.how == "detach_":
            for part in self.state:
                part.detach_()
        elif self.state is not None:
            self.state = tuple(part.detach() for part in self.state)  # type: ignore[assignment]
        output, self.state = self.rnn(x, self.state)
        return output


class Lists(nn.Module):
    """Keeps states in a list, a dict, a deque, an object and a buffer that it writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(D, H)
        self.states: list[Tensor] = [torch.zeros(1, B, H)]
        self.cache: dict[str, Any] = {"nested": {"h": torch.zeros(1, B, H)}}
        self.recent: collections.deque[Tensor] = collections.deque(maxlen=2)
        self.memory = SimpleNamespace(h=torch.zeros(1, B, H), steps=0)
        self.array = np.zeros(3)
        self.register_buffer("kept", torch.zeros(1, B, H))

    def forward(self, x: Tensor) -> Tensor:
        start = self.states[-1] + self.cache["nested"]["h"] + self.memory.h + self.kept + float(self.array.sum())
        output, h = self.rnn(x, start)
        self.states.append(0.1 * h.detach())
        self.cache["nested"]["h"] = 0.2 * h.detach()
        self.recent.append(h.detach())
        self.memory.h, self.memory.steps = 0.05 * h.detach(), self.memory.steps + 1
        self.kept.copy_(0.1 * h.detach())
        self.array += 0.01
        return output + len(self.recent)


class Norms(nn.Module):
    """Batch normalization, dropout, a counter, its own random generator, and numbers from a fixed seed."""

    def __init__(self, *, trains_itself: bool = False, seeds: bool = False) -> None:
        super().__init__()
        self.rnn = nn.GRU(D, H, 2, dropout=0.3)
        self.norm, self.drop = nn.BatchNorm1d(H), nn.Dropout(0.2)
        self.average, self.count = 0.0, 0
        self.generator, self.numpy = torch.Generator().manual_seed(5), np.random.default_rng(5)
        self.trains_itself, self.seeds = trains_itself, seeds

    def forward(self, x: Tensor) -> Tensor:
        if self.trains_itself:
            self.train()
        if self.seeds:
            torch.manual_seed(self.count)
        noise = torch.randn(x.shape, generator=self.generator) * random.random() * np.random.rand()  # noqa: NPY002
        output = self.rnn(x + 0.01 * noise + float(self.numpy.normal()) * 0.01)[0]
        self.count += 1
        self.average = 0.9 * self.average + 0.1 * float(output.detach().mean())
        return self.drop(self.norm(output.flatten(0, 1))).view_as(output) + self.average


class WeightDrop(nn.Module):
    """As in AWD-LSTM (salesforce, fastai): keeps the raw weight and gives the layer a dropped one at each call."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.module, self.style = nn.LSTM(D, H), style
        self.module.flatten_parameters = self.nothing  # type: ignore[method-assign]
        raw = self.module.weight_hh_l0
        del self.module._parameters["weight_hh_l0"]
        self.register_parameter("weight_hh_l0_raw", nn.Parameter(raw.data))
        if style != "fresh":
            self.module.weight_hh_l0 = raw.clone() if style == "fastai" else nn.Parameter(raw.data.clone())

    def nothing(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        raw = self.weight_hh_l0_raw
        if self.style == "fastai":  # a tensor in training, the parameter itself in eval mode
            self.module.weight_hh_l0 = F.dropout(raw, 0.5, self.training)
        elif self.style == "fresh":
            if "weight_hh_l0" in self.module._parameters:
                raise AssertionError("a parameter was left behind")
            self.module.weight_hh_l0 = F.dropout(raw, 0.5, self.training)
        elif self.style == "parameter":
            self.module.weight_hh_l0 = nn.Parameter(F.dropout(raw, 0.5, self.training))
        else:
            self.module.weight_hh_l0.data = F.dropout(raw.data, 0.5, self.training)
        return self.module(x)[0]


class Renormed(nn.Module):
    """An embedding that scales its own weights in each call; the head shares them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(7, H, max_norm=0.5), nn.RNN(H, H)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(self.embedding((x[..., 0].abs() * 3).long().clamp(max=6)))
        return F.linear(output, self.embedding.weight)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.rnn, self.norm = nn.LazyLinear(D), nn.GRU(D, H), nn.LazyBatchNorm1d()

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(self.into(x))
        return self.norm(output.flatten(0, 1)).view_as(output)


class Shared(nn.Module):
    """One layer under two names, and one in a plain list, which registers nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.again = nn.RNN(D, D)
        self.hidden = [nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(D, affine=False))]

    def forward(self, x: Tensor) -> Tensor:
        middle = self.hidden[0](self.first(x)[0].flatten(0, 1)).view_as(x)
        return self.again(middle)[0]


def normed(how: str) -> nn.Module:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(D, H), nn.Linear(H, H)
            if how == "old weight":
                self.rnn = nn.utils.weight_norm(self.rnn, "weight_hh_l0")
            elif how == "old spectral":
                self.head = nn.utils.spectral_norm(self.head)
            elif how == "spectral":
                self.head = nn.utils.parametrizations.spectral_norm(self.head)
            else:
                nn.utils.parametrizations.weight_norm(self.rnn, "weight_hh_l0")
                nn.utils.parametrizations.orthogonal(self.head)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    return Wrapped()


ZOO: dict[str, Callable[[], nn.Module]] = {
    "stateful": Stateful,
    "stateful, in place": lambda: Stateful("detach_"),
    "containers": Lists,
    "norms and counters": Norms,
    "trains itself": lambda: Norms(trains_itself=True),
    "seeds": lambda: Norms(seeds=True),
    "weight drop, tensor": lambda: WeightDrop("fastai"),
    "weight drop, deleted": lambda: WeightDrop("fresh"),
    "weight drop, parameter": lambda: WeightDrop("parameter"),
    "weight drop, data": lambda: WeightDrop("data"),
    "renormed embedding": Renormed,
    "lazy": Lazy,
    "shared": Shared,
    "old weight norm": lambda: normed("old weight"),
    "old spectral norm": lambda: normed("old spectral"),
    "spectral norm": lambda: normed("spectral"),
    "parametrised": lambda: normed("parametrised"),
    "data parallel": lambda: nn.DataParallel(Norms()),
    "compiled": lambda: torch.compile(Norms(), backend="eager"),
    "ours": lambda: nn.Sequential(rg.nn.LSTM(D, H, 2, dropout=0.3), First(), nn.Dropout(0.2)),
}


class First(nn.Module):
    def forward(self, pair: tuple[Tensor, Any]) -> Tensor:
        return pair[0]


# --- What must not change -------------------------------------------------------------------------------------------


def everything(value: Any, seen: dict[int, int] | None = None) -> Any:
    """The whole state of a module or object as plain data to compare: contents, types and identities."""
    seen = {} if seen is None else seen
    if isinstance(value, Tensor):
        number = seen.setdefault(id(value), len(seen))
        if nn.parameter.is_lazy(value):
            return ("lazy", type(value).__name__, number)
        bits = value.detach().clone().numpy().tobytes()
        grad = value.grad if value.is_leaf else None
        own = (type(value).__name__, tuple(value.shape), value.requires_grad, value.grad_fn is None, bits)
        return (*own, None if grad is None else grad.numpy().tobytes(), number)
    if isinstance(value, nn.Module):
        if id(value) in seen:
            return ("again", seen[id(value)])
        seen[id(value)] = len(seen)
        own = {k: v for k, v in vars(value).items() if k not in ("_flat_weight_refs", "_torchdynamo_wrapper_id")}
        return (type(value).__name__, everything(own, seen))
    if isinstance(value, dict):
        # Numbers are those of hooks, which torch counts over the whole process, or of optimiser entries.
        return (
            type(value).__name__,
            [(key if isinstance(key, str) else "", everything(item, seen)) for key, item in value.items()],
        )
    if isinstance(value, (list, tuple, collections.deque)):
        return (type(value).__name__, [everything(item, seen) for item in value])
    if isinstance(value, SimpleNamespace):
        return everything(vars(value), seen)
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    return value if isinstance(value, (int, float, str, bool, type(None))) else type(value).__name__


def random_states() -> Any:
    numpy = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), numpy[1].tobytes(), numpy[2], random.getstate()  # type: ignore[index, union-attr]


def by_step(output: Any) -> Tensor:
    return (output[0] if isinstance(output, tuple) else output).square().sum(-1)


def seed(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002


def train(
    make: Callable[[], nn.Module],
    *,
    recorded: bool,
    where: str = "end",
    steps: int = 4,
    call: Callable[[nn.Module], Callable[..., Any]] = lambda model: model,
) -> tuple[Any, list[dict[str, Any]]]:
    """The state of everything after a short training, and the records."""
    seed(0)
    model = make()
    model.train()
    optimiser: torch.optim.Optimizer | None = None
    generator, losses = torch.Generator().manual_seed(1), []
    recorder = rg.GradientFlowRecorder(call(model), by_step, every=2, budget=None) if recorded else None
    seed(2)
    for step in range(steps):
        x = torch.randn(T, B, D, generator=generator)

        def look(place: str, x: Tensor = x) -> None:
            if recorder is not None and place == where:
                recorder.step(x)

        if step == 0:
            look("first")
        loss = by_step(call(model)(x)).mean()
        look("before backward")
        if optimiser is None:  # lazy parameters have their shape now
            optimiser = torch.optim.Adam(model.parameters(), 0.02)
        optimiser.zero_grad()
        loss.backward()
        look("before update")
        optimiser.step()
        look("end")
        losses.append(float(loss.detach()))
    assert optimiser is not None
    state = [everything(model), everything(optimiser.state_dict()), losses, random_states()]
    return state, [] if recorder is None else recorder.records


@pytest.mark.parametrize("name", ZOO)
def test_training_with_the_recorder_is_training_without_it(name: str) -> None:
    without, _ = train(ZOO[name], recorded=False)
    for where in ("before backward", "before update", "end"):
        found, records = train(ZOO[name], recorded=True, where=where)
        assert [record.get("error") for record in records] == [None, None], where
        for one, other in zip(found, without, strict=True):
            assert one == other, where


# --- Ways to call a model -------------------------------------------------------------------------------------------


class Agent:
    """Not a module, but it contains some: one directly, one two objects deeper, one in a dict."""

    __slots__ = ("__dict__", "count")
    scale = 1.0

    def __init__(self, model: nn.Module) -> None:
        self.inner = SimpleNamespace(parts={"model": model})
        self.count, self.last = 0, None

    def act(self, x: Tensor) -> Any:
        self.count += 1
        self.last = x.detach() * self.count
        return self.inner.parts["model"](x)

    def __call__(self, x: Tensor) -> Any:
        return self.act(x)


def through(function: Callable[..., Any], x: Tensor, *, factor: float = 1.0) -> Any:
    return function(x * factor)


MODEL_OF_THE_MODULE: Any = None
REGISTRY: dict[str, Any] = {}


def reached_by_a_global(x: Tensor) -> Any:
    return MODEL_OF_THE_MODULE(x)


def by_global(model: nn.Module) -> Callable[..., Any]:
    global MODEL_OF_THE_MODULE
    MODEL_OF_THE_MODULE = model
    return reached_by_a_global


class Proxy:
    """Reaches the model in a way that cannot be followed: it contains only a number."""

    def __init__(self, model: nn.Module) -> None:
        self.number = id(model)
        REGISTRY[str(self.number)] = model

    def __call__(self, x: Tensor) -> Any:
        return globals()["".join(["REG", "ISTRY"])][str(self.number)](x)


def nested(model: nn.Module) -> Callable[..., Any]:
    def outer() -> Callable[..., Any]:
        def inner(x: Tensor) -> Any:
            return model(x)

        return inner

    chosen = outer()
    return lambda x: chosen(x)


def default(model: nn.Module) -> Callable[..., Any]:
    def run(x: Tensor, net: nn.Module = model) -> Any:
        return net(x)

    return run


CALLS: dict[str, Callable[[nn.Module], Callable[..., Any]]] = {
    "forward": lambda model: model.forward,
    "lambda": lambda model: lambda x: model(x),
    "lambda around forward": lambda model: lambda x: model.forward(x),
    "partial": lambda model: functools.partial(through, model, factor=1.0),
    "nested closures": nested,
    "default": default,
    "global": by_global,
    "method of a holder": lambda model: Agent(model).act,
    "callable holder": Agent,
    "out of sight": Proxy,
}


@pytest.mark.parametrize("call", CALLS)
def test_however_the_model_is_called(call: str) -> None:
    """Dropout, batch normalization and attributes behind functions: measured in eval mode and restored."""
    without, _ = train(Norms, recorded=False, call=CALLS[call])
    found, records = train(Norms, recorded=True, call=CALLS[call])
    assert found == without
    assert all("dropout was active; measured in eval mode" in str(record["notes"]) for record in records)
    seed(0)
    model = Norms()
    x = torch.randn(T, B, D)
    before, states = everything(model), random_states()
    flow = rg.gradient_flow(CALLS[call](model), x, loss=by_step)
    assert everything(model) == before and random_states() == states
    np.testing.assert_array_equal(flow.norms, rg.gradient_flow(model, x, loss=by_step).norms)
    assert flow.layers == ["l0", "l1"]


def test_state_in_a_closure_and_in_a_holder_is_kept() -> None:
    rnn = nn.GRU(D, H)
    kept: dict[str, Tensor] = {}
    h, calls = torch.zeros(1, B, H), 0

    def step(x: Tensor) -> Tensor:
        nonlocal h, calls
        calls += 1
        output, h = rnn(x, h.detach() + kept.get("h", torch.zeros(1, B, H)))
        kept["h"] = h.detach()
        return output

    x = torch.randn(T, B, D)
    step(x)
    before, values = (h, kept["h"]), (h.detach().clone(), kept["h"].clone())
    first = rg.gradient_flow(step, x, loss=by_step)
    second = rg.gradient_flow(step, x, loss=by_step)
    np.testing.assert_array_equal(first.norms, second.norms)
    assert h is before[0] and h.grad_fn is not None and kept["h"] is before[1] and calls == 1
    assert torch.equal(h, values[0]) and torch.equal(kept["h"], values[1])
    agent = Agent(nn.GRU(D, H))
    rg.gradient_flow(agent.act, x, loss=by_step)
    assert agent.count == 0 and agent.last is None


def test_state_behind_an_attribute_of_a_function_is_kept() -> None:
    rnn, kept = nn.GRU(D, H), {"h": torch.zeros(1, B, H)}

    def run(x: Tensor) -> Tensor:
        output, kept["h"] = rnn(x, kept["h"])
        return output

    def model(x: Tensor) -> Tensor:
        return model.run(x)  # type: ignore[attr-defined]

    model.run = run  # type: ignore[attr-defined]
    before = kept["h"]
    rg.gradient_flow(model, torch.randn(T, B, D), loss=by_step)
    assert kept["h"] is before and not before.any()


def test_module_names_what_cannot_be_found() -> None:
    model = Norms()

    class Hidden:
        """Uses the weights of a module without calling it."""

        def __call__(self, x: Tensor) -> Tensor:
            found = REGISTRY["hidden"]
            h = torch.zeros(1, B, H)
            flat = list(found.rnn._flat_weights[:4])
            return torch.gru(x, h, flat, True, 1, 0.0, found.training, False, False)[0] * (
                2.0 if found.training else 1.0
            )

    REGISTRY["hidden"] = model
    x = torch.randn(T, B, D)

    def out_of_sight(x: Tensor) -> Any:
        return globals()["".join(["REG", "ISTRY"])]["hidden call"](x)

    REGISTRY["hidden call"] = Hidden()
    blind = rg.gradient_flow(out_of_sight, x, loss=by_step)
    assert any("module=" in note for note in blind.notes)
    seen = rg.gradient_flow(out_of_sight, x, loss=by_step, module=model)
    assert not any("module=" in note for note in seen.notes)
    np.testing.assert_allclose(blind.norms, 4 * seen.norms, rtol=1e-5)  # twice the output, a square of it as loss
    assert model.training
    with pytest.raises(rg.errors.OptionError, match="module is str"):
        rg.gradient_flow(out_of_sight, x, loss=by_step, module="model")
    found = rg.flow.sequence_gradients(out_of_sight, x, loss=by_step, module=[model])
    assert found.norms["rnn.weight_hh_l0"].min() > 0
    recorder = rg.GradientFlowRecorder(out_of_sight, by_step, every=1, budget=None, sequences=None, module=model)
    record = recorder.step(x)
    assert record is not None and not any("module=" in note for note in record["notes"])


def test_several_modules_behind_a_function_are_named_by_its_variables() -> None:
    encoder, decoder = nn.GRU(D, H), nn.LSTM(H, H)
    flow = rg.gradient_flow(lambda x: decoder(encoder(x)[0]), torch.randn(T, B, D), loss=by_step)
    assert flow.layers == ["encoder.l0", "decoder.l0"]
    assert "decoder.weight_hh_l0" in flow.parameters


class InLists(nn.Module):
    """Layers that torch does not know of, as they are in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.RNN(D, H), nn.GRU(H, H)]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = layer(x)[0]
        return x


def test_layers_in_a_list_of_a_module_have_a_name_each() -> None:
    flow = rg.gradient_flow(InLists(), torch.randn(T, B, D), loss=lambda output: output.square().sum(-1))
    assert flow.layers == ["module1.l0", "module2.l0"] and "module2.weight_hh_l0" in flow.parameters


def test_a_layer_with_two_names_in_a_function_has_one_in_the_flow() -> None:
    first = second = nn.RNN(D, H)
    flow = rg.gradient_flow(
        lambda x: first(x)[0] + second(x)[0], torch.randn(T, B, D), loss=lambda o: o.square().sum(-1)
    )
    assert flow.layers == ["l0#1", "l0#2"] and "weight_hh_l0" in flow.parameters


# --- Any model, any way, also when it fails -------------------------------------------------------------------------


class Broken(Exception):
    pass


def failing(place: str, count: int = 0) -> Callable[[Any], Tensor]:
    def loss(output: Any) -> Tensor:
        if place == "loss":
            raise Broken
        found = by_step(output)
        if place == "backward":
            found = found * 1.0
            found.register_hook(lambda g: (_ for _ in ()).throw(Broken()))
        return found

    return loss


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([name for name in ZOO if name != "compiled"]),
    call=st.sampled_from([None, *CALLS]),
    training=st.booleans(),
    place=st.sampled_from(["", "loss", "backward", "forward"]),
    measure=st.sampled_from(["flow", "sequences"]),
    after=st.integers(0, 2),
)
def test_a_measurement_leaves_no_trace(
    name: str, call: str | None, training: bool, place: str, measure: str, after: int
) -> None:
    seed(0)
    model = ZOO[name]()
    model.train()
    wanted = (lambda model: model) if call is None else CALLS[call]
    for step in range(after):
        seed(step)
        by_step(model(torch.randn(T, B, D))).mean().backward(retain_graph=True)
    x = torch.randn(T, B, D)
    function = wanted(model)
    handle = None
    if place == "forward":

        def fail(*_: Any) -> None:
            raise Broken

        inner = [m for m in model.modules() if isinstance(m, (nn.RNNBase,))][-1]
        handle = inner.register_forward_hook(fail)
    before, batch, states = everything(model), x.clone(), random_states()
    run = rg.gradient_flow if measure == "flow" else rg.flow.sequence_gradients
    try:
        run(function, x, loss=failing(place), training=training)
        assert place in ("", "backward")
    except (Broken, rg.errors.FlowError):
        pass
    assert everything(model) == before
    assert random_states() == states and torch.equal(x, batch)
    assert not nn.modules.module._global_forward_pre_hooks
    assert all(p.requires_grad for p in model.parameters())
    if handle is not None:
        handle.remove()
    by_step(model(x)).mean().backward()  # the next training step works


def test_a_backward_pass_of_the_training_goes_on_after_a_measurement() -> None:
    """Tensors that are written in place and restored have their old version again."""
    model = Renormed()
    x = torch.randn(T, B, D)
    loss = by_step(model(x)).mean()
    rg.gradient_flow(model, x, loss=by_step)
    loss.backward()


def test_weights_shared_with_other_processes_are_not_set_back() -> None:
    """What other workers (Hogwild) write during a measurement is kept."""
    model = nn.GRU(D, H).share_memory()
    loss_ran = []

    def loss(output: Any) -> Tensor:
        loss_ran.append(1)
        model.weight_ih_l0.data[0, 0] = 7.0  # as another process does: no version counts it
        return by_step(output)

    rg.gradient_flow(model, torch.randn(T, B, D), loss=loss)
    assert loss_ran and float(model.weight_ih_l0[0, 0].detach()) == 7.0


def test_a_batch_that_the_model_writes_into_is_kept() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(D, H)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x.mul_(0.5))[0]

    x = torch.randn(T, B, D)
    before = x.clone()
    recorder = rg.GradientFlowRecorder(Writes(), by_step, every=1, budget=None, sequences=2)
    recorder.step(x)
    assert torch.equal(x, before) and "error" not in recorder.records[0]


def test_a_check_of_gradients_keeps_all_random_states() -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(D, H)

        def forward(self, x: Tensor) -> Tensor:
            np.random.rand()  # noqa: NPY002
            random.random()
            return self.rnn(x)[0]

    seed(3)
    before = random_states()
    assert rg.check_gradients(Draws(), torch.randn(3, 2, D), entries=2) is not None
    torch.manual_seed(3)
    assert random_states()[1:] == before[1:]


def test_random_states_of_other_devices_are_asked_of_their_own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that this machine does not have, as fakes: the random state of each is read from its own module."""
    from retrograde.flow.recording import isolation

    states = {"mps": torch.zeros(2), "xpu": torch.zeros(2)}
    asked: list[tuple[str, str]] = []

    def fake(kind: str) -> SimpleNamespace:
        def get(device: Any) -> Tensor:
            asked.append((kind, torch.device(device).type))
            return states[kind].clone()

        def put(state: Tensor, device: Any) -> None:
            states[kind] = state.clone()

        return SimpleNamespace(get_rng_state=get, set_rng_state=put, device_count=lambda: 1)

    real = torch.get_device_module
    fakes = {kind: fake(kind) for kind in states}
    monkeypatch.setattr(torch, "get_device_module", lambda kind=None: fakes.get(str(kind)) or real(kind))
    for kind, module in fakes.items():  # where torch 2.6 looks for them
        monkeypatch.setattr(torch, kind, module)
    with isolation.random_states_kept([torch.device("mps"), torch.device("xpu:0"), torch.device("meta")]):
        states["mps"] += 1
        states["xpu"] += 2
    assert sorted(asked) == [("mps", "mps"), ("xpu", "xpu")]
    assert not states["mps"].any() and not states["xpu"].any()


def test_a_model_without_values_is_refused_in_one_line() -> None:
    with pytest.raises(rg.errors.FlowError, match=r"weight_ih_l0 of GRU is on the device 'meta'.*to_empty") as caught:
        rg.gradient_flow(nn.GRU(D, H, device="meta"), torch.randn(T, B, D), loss=by_step)
    assert "\n" not in str(caught.value)
    with pytest.raises(rg.errors.FlowError, match="weight_ih_l0 of GRU is on the device 'meta'"):
        rg.check_gradients(nn.GRU(D, H, device="meta"), torch.randn(T, B, D))
    with pytest.raises(rg.errors.FlowError, match="An input is on the device 'meta'"):
        rg.gradient_flow(nn.GRU(D, H), torch.randn(T, B, D, device="meta"), loss=by_step)


def test_what_a_deep_copy_shares_stays_apart() -> None:
    """Two measurements of one model give the same result, whatever state the model keeps."""
    for name in ("stateful", "containers", "seeds", "norms and counters"):
        seed(0)
        model = ZOO[name]().eval()
        x = torch.randn(T, B, D)
        twin = copy.deepcopy(model)
        first, second = (rg.gradient_flow(model, x, loss=by_step) for _ in range(2))
        np.testing.assert_array_equal(first.norms, second.norms)
        np.testing.assert_array_equal(first.norms, rg.gradient_flow(twin, x, loss=by_step).norms)


def test_layers_made_as_the_model_runs_and_weights_made_in_inference_mode() -> None:
    """Packed sequences keep the user's order also in a layer that is only found while the model runs."""
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(7, 3, D), [4, 7, 2], enforce_sorted=False)

    class Made(nn.Module):
        def forward(self, x: Any) -> Tensor:
            torch.manual_seed(3)
            return nn.utils.rnn.pad_packed_sequence(nn.GRU(D, H)(x)[0])[0]

    flow = rg.gradient_flow(Made(), packed, loss=by_step)
    assert flow.lengths is not None and flow.lengths.tolist() == [4, 7, 2]
    with torch.inference_mode():
        layer, x = nn.GRU(D, H), torch.randn(T, B, D)
    plain = nn.GRU(D, H)
    plain.load_state_dict(layer.state_dict())
    flow = rg.gradient_flow(layer, x, loss=by_step)
    np.testing.assert_array_equal(flow.norms, rg.gradient_flow(plain, x.clone(), loss=by_step).norms)
    assert all(p.requires_grad for p in layer.parameters())


def test_functions_in_functions_are_followed_to_a_limit() -> None:
    def around(inner: object) -> object:
        return lambda: inner

    rnn, inside = nn.RNN(2, 3), around(None)
    for _ in range(1000):
        inside = around(inside)
    flow = rg.gradient_flow(lambda x: (inside, rnn(x)[0])[1], torch.randn(4, 2, 2), loss=lambda out: out.sum(-1))
    assert flow.layers == ["l0"]
