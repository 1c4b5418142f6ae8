"""Train a case, and record what the doctor and its peers look at."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import retrograde as rg
from retrograde.doctor import TrainingRecord

from .case import Case, Loop
from .networks import Network, detached
from .tasks import Batch

SNAPSHOTS = 20  # updates at which weights, gradients and activations are recorded


@dataclass
class Layer:
    """What a recurrent layer computed: shares of its units, or of all its values."""

    beyond_5: float  # values before the nonlinearities, outside ±5
    beyond_9: float  # units whose values before tanh are outside ±9.4999 in 99 % of cases
    inactive: float  # ReLU units above 0 in less than 1 % of cases
    zeros: float  # ReLU values that are 0


@dataclass
class Snapshot:
    """One update as tools that look at weights see it; gradients are those before clipping."""

    update: int
    loss: float
    names: list[str]  # of parameters, in order
    mean: list[float]  # mean |g|
    norm: list[float]
    zeros: list[float]  # share of g = 0
    ratio: list[float]  # mean |Δw| / mean |w|
    layers: list[Layer] = field(default_factory=list)


@dataclass
class Trained:
    """A network after training."""

    network: Network
    initial: Network
    record: TrainingRecord
    snapshots: list[Snapshot]
    loss: float  # on sequences never seen
    chance: float
    seconds: float


def batches(case: Case, seed: int, count: int, sequences: int | None = None) -> Iterator[Batch]:
    """Batches of a stream of their own; the seed of training's is its own, too."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield case.task.draw(sequences or case.training.batch, generator)


class Treatment(Protocol):
    """What a prescription does to a training."""

    def on_model(self, network: Network, batch: Batch) -> Callable[[], object] | None: ...
    def on_batch(self, batch: Batch) -> Batch: ...


def train(case: Case, seed: int = 0, *, weights_seed: int | None = None, treatment: Treatment | None = None) -> Trained:
    """Train from a seed; a loss that is not finite ends training."""
    began = time.perf_counter()
    network = case.model.build(case.task, seed if weights_seed is None else weights_seed)
    treat = (lambda batch: batch) if treatment is None else treatment.on_batch
    after_backward = None
    if treatment is not None:
        (first,) = batches(case, 1000 + seed, 1)
        after_backward = treatment.on_model(network, treat(first))
    initial = copy.deepcopy(network)
    rg.nn.accelerate_(network)  # the same numbers, in a fraction of the time
    how = case.training
    weights = [p for p in network.parameters() if p.requires_grad]
    given = network.head.parameters() if _loop(case) == "head only" else weights
    optimizer = (torch.optim.Adam if how.optimizer == "adam" else torch.optim.SGD)(given, lr=how.lr)
    losses: list[float] = []
    norms: list[float] = []
    snapshots: list[Snapshot] = []
    every = max(how.updates // SNAPSHOTS, 1)
    for update, batch in enumerate(map(treat, batches(case, 1000 + seed, how.updates))):
        if update % every == 0:
            snapshots.append(_snapshot(network, case, batch, update))
        before = [p.detach().clone() for p in weights] if update % every == 0 else []
        if _loop(case) == "targets moved":
            batch = batch._replace(targets=batch.targets.roll(1, 1 - network.time if network.each else 0))
        loss = _update(network, case, batch, optimizer, norms, after_backward)
        losses.append(loss)
        if before:
            snapshots[-1].ratio = [_ratio(old, new) for old, new in zip(before, weights, strict=True)]
        if not math.isfinite(loss):
            break
    diverged = not all(map(math.isfinite, [losses[-1], norms[-1]])) if losses else False
    rg.nn.restore_(network)
    unseen = [treat(batch) for batch in batches(replace(case, task=case.task.meant), 77, 4, 64)]
    chance = case.task.meant.chance
    if unseen[0].targets.is_floating_point():  # treatment may have scaled them
        chance = float(torch.cat([b.targets.flatten(0, -2) for b in unseen]).var(0, correction=0).mean())
    record = TrainingRecord(
        optimizer=how.optimizer, lr=how.lr, clip_norm=how.clip, bptt=how.bptt, updates=len(losses), losses=losses,
        gradient_norms=norms, chance=chance, diverged=diverged,
    )  # fmt: skip
    return Trained(
        network, initial, record, snapshots, evaluate(network, case, unseen), chance, time.perf_counter() - began
    )


@torch.no_grad()
def evaluate(network: Network, case: Case, unseen: list[Batch]) -> float:
    """Mean loss on sequences that training has not seen, of the task as it is meant."""
    network.eval()
    found = [float(case.task.mean_loss(network(b.inputs, b.lengths), b.targets)) for b in unseen]
    network.train()
    return sum(found) / len(found)


def _update(
    network: Network,
    case: Case,
    batch: Batch,
    optimizer: Any,
    norms: list[float],
    after_backward: Callable[[], object] | None,
) -> float:
    """One update, or one for each window of truncated backpropagation that has a target; returns the mean loss."""
    how, loop, state, found = case.training, _loop(case), None, []
    windows = [(batch.inputs, batch.targets)]
    if how.bptt is not None and network.each:
        time_axis = network.time
        windows = list(
            zip(batch.inputs.split(how.bptt, time_axis), batch.targets.split(how.bptt, time_axis), strict=True)
        )
    for x, target in windows:
        if how.bptt is None or network.each:
            output, state = network.window(x, state, batch.lengths)
            state = detached(state)
        else:
            output = network.truncated(x, how.bptt, batch.lengths)
        if not target.is_floating_point() and bool((target < 0).all()):
            continue
        loss = case.task.mean_loss(output, target)
        second = len(norms) % 2 == 1
        if loop != "never zeroed" and not (loop == "two batches a step" and second):
            optimizer.zero_grad()
        if loss.requires_grad:
            (loss * how.loss_scale).backward()
            if after_backward is not None:
                after_backward()
            norms.append(float(_clipped(network, how.clip)))
            if loop != "no step" and (loop != "two batches a step" or second):
                optimizer.step()
        found.append(float(loss.detach()))
    return sum(found) / len(found)


def _loop(case: Case) -> str:
    return case.training.loop if isinstance(case.training, Loop) else ""


def _clipped(network: Network, clip: float | None) -> Tensor:
    return nn.utils.clip_grad_norm_(network.parameters(), math.inf if clip is None else clip)


def _ratio(old: Tensor, new: Tensor) -> float:
    return float((new.detach() - old).abs().mean() / old.abs().mean().clamp(min=1e-12))


def _snapshot(network: Network, case: Case, batch: Batch, update: int) -> Snapshot:
    """The gradients of a batch's whole sequences, and what the layers computed."""
    twin = copy.deepcopy(network)
    with _watched(twin) as layers:
        loss = case.task.mean_loss(twin(batch.inputs, batch.lengths), batch.targets)
    named = [(n, p) for n, p in twin.named_parameters() if p.requires_grad]
    if loss.requires_grad:
        (loss * case.training.loss_scale).backward()
    g = [torch.zeros_like(p) if p.grad is None else p.grad for _, p in named]
    return Snapshot(
        update,
        float(loss.detach()),
        [n for n, _ in named],
        [float(x.abs().mean()) for x in g],
        [float(x.norm()) for x in g],
        [float((x == 0).float().mean()) for x in g],
        [],
        layers,
    )


@contextmanager
def _watched(network: nn.Module) -> Iterator[list[Layer]]:
    """Collect what every call of a recurrent layer computes; of several calls, the first."""
    found: list[Layer] = []
    seen: set[int] = set()

    def see(module: nn.RNNBase, inputs: tuple[Any, ...], output: Any) -> None:
        if id(module) not in seen:
            seen.add(id(module))
            given = inputs[0]
            x = nn.utils.rnn.pad_packed_sequence(given)[0] if isinstance(given, PackedSequence) else given
            x = x.detach()
            found.extend(_layers(module, x.transpose(0, 1) if module.batch_first else x))

    handles = [m.register_forward_hook(see) for m in network.modules() if isinstance(m, nn.RNNBase)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _layers(rnn: nn.RNNBase, x: Tensor) -> Iterator[Layer]:
    """The layers of a stack from zero states."""
    for k in range(rnn.num_layers):
        options = {"nonlinearity": rnn.nonlinearity} if isinstance(rnn, nn.RNN) else {}
        single = type(rnn)(x.shape[-1], rnn.hidden_size, **options)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(single, f"{name}_l0").copy_(getattr(rnn, f"{name}_l{k}"))
        h = single(x)[0]
        from_input = nn.functional.linear(x, single.weight_ih_l0, single.bias_ih_l0)
        before = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
        from_state = nn.functional.linear(before, single.weight_hh_l0, single.bias_hh_l0)
        pre, size = from_input + from_state, rnn.hidden_size
        into_tanh = pre
        if rnn.mode == "LSTM":
            into_tanh = pre[..., 2 * size : 3 * size]
        elif rnn.mode == "GRU":
            reset = pre[..., :size].sigmoid()
            into_tanh = from_input[..., 2 * size :] + reset * from_state[..., 2 * size :]
            pre = torch.cat([pre[..., : 2 * size], into_tanh], -1)
        relu = rnn.mode == "RNN_RELU"
        stuck = (into_tanh.abs() > 9.4999).flatten(0, 1).float().mean(0) >= 0.99
        yield Layer(
            float((pre.abs() > 5).float().mean()) if not relu else 0.0,
            float(stuck.float().mean()) if not relu else 0.0,
            float(((h > 0).flatten(0, 1).float().mean(0) < 0.01).float().mean()) if relu else 0.0,
            float((h == 0).float().mean()) if relu else 0.0,
        )
        x = h
