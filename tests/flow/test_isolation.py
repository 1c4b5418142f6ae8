"""A measurement leaves no trace: awkward models train bit for bit as they would without it."""

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
from torch.nn import functional as F  # noqa: N812 (as everyone writes it)

import retrograde as rg

T, B, I, H = 6, 4, 3, 5


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*weight_norm.*|.*flatten.*|.*non-contiguous.*")
        yield


# --- The zoo --------------------------------------------------------------------------------------------------------


class Stateful(nn.Module):
    """Carries its state from batch to batch; ``how`` it is cut off the last graph."""

    def __init__(self, how: str = "detach") -> None:
        super().__init__()
        self.rnn, self.how = nn.LSTM(I, H), how
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
    """Keeps states in a list, a dict, a deque, an object, and a buffer that is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(I, H)
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
    """Batch normalisation, dropout, an attribute that counts, a generator of its own, seeded numbers."""

    def __init__(self, *, trains_itself: bool = False, seeds: bool = False) -> None:
        super().__init__()
        self.rnn = nn.GRU(I, H, 2, dropout=0.3)
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
    """As in AWD-LSTM (salesforce, fastai): the raw weight is kept, the layer gets a dropped one at every call."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.module, self.style = nn.LSTM(I, H), style
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
    """An embedding that scales its own weights as it looks them up, tied to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(7, H, max_norm=0.5), nn.RNN(H, H)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(self.embedding((x[..., 0].abs() * 3).long().clamp(max=6)))
        return F.linear(output, self.embedding.weight)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.rnn, self.norm = nn.LazyLinear(I), nn.GRU(I, H), nn.LazyBatchNorm1d()

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(self.into(x))
        return self.norm(output.flatten(0, 1)).view_as(output)


class Shared(nn.Module):
    """One layer under two names, one more in a list that registers nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.again = nn.RNN(I, I)
        self.hidden = [nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(I, affine=False))]

    def forward(self, x: Tensor) -> Tensor:
        middle = self.hidden[0](self.first(x)[0].flatten(0, 1)).view_as(x)
        return self.again(middle)[0]


def normed(how: str) -> nn.Module:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(I, H), nn.Linear(H, H)
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
    "ours": lambda: nn.Sequential(rg.nn.LSTM(I, H, 2, dropout=0.3), First(), nn.Dropout(0.2)),
}


class First(nn.Module):
    def forward(self, pair: tuple[Tensor, Any]) -> Tensor:
        return pair[0]


# --- What must not change -------------------------------------------------------------------------------------------


def everything(value: Any, seen: dict[int, int] | None = None) -> Any:
    """The whole state of a module or object as plain comparable data: contents, kinds, and which object is which."""
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
        own = {k: v for k, v in vars(value).items() if k not in ("_flat_weight_refs", "dynamo_ctx")}
        return (type(value).__name__, everything(own, seen))
    if isinstance(value, dict):
        return (type(value).__name__, [(str(key), everything(item, seen)) for key, item in value.items()])
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
    """The state of everything after some training, and the records."""
    seed(0)
    model = make()
    model.train()
    optimiser: torch.optim.Optimizer | None = None
    generator, losses = torch.Generator().manual_seed(1), []
    recorder = rg.GradientFlowRecorder(call(model), by_step, every=2, budget=None) if recorded else None
    seed(2)
    for step in range(steps):
        x = torch.randn(T, B, I, generator=generator)

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
