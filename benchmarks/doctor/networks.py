"""The networks of the cases: plain torch modules as people write them, and the same with a mistake in the wiring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .tasks import Task

CELLS = ("tanh", "relu", "gru", "lstm")


@dataclass(frozen=True)
class Model:
    """A network: its cell, sizes, how its weights start, and its wiring ("" is right; see `WIRINGS`)."""

    cell: str
    hidden: int = 24
    layers: int = 1
    start: tuple[tuple[str, float], ...] = ()  # applied in this order; see `start`
    wiring: str = ""
    layer_norm: bool = False

    def build(self, task: Task, seed: int) -> Network:
        torch.manual_seed(seed)
        network = WIRINGS[self.wiring](self, task)
        for name, value in self.start:
            _start(network, name, value)
        return network


def _layer(model: Model, size: int, layers: int, batch_first: bool) -> nn.RNNBase:
    options: dict[str, Any] = {"num_layers": layers, "batch_first": batch_first}
    if model.cell in ("tanh", "relu"):
        return nn.RNN(size, model.hidden, nonlinearity=model.cell, **options)
    return {"gru": nn.GRU, "lstm": nn.LSTM}[model.cell](size, model.hidden, **options)


class Network(nn.Module):
    """Recurrent layers under a linear head that reads every state, or the last one of each sequence."""

    flips_axes = False

    def __init__(self, model: Model, task: Task) -> None:
        super().__init__()
        self.each, self.batch_first = task.about.each, task.batch_first
        self.time = 1 if task.batch_first else 0
        self.embedding = None if task.input_size else nn.Embedding(task.output_size, model.hidden)
        size = task.input_size or model.hidden
        self.rnn = _layer(model, size, model.layers, task.batch_first != self.flips_axes)
        self.norm = nn.LayerNorm(model.hidden) if model.layer_norm else None
        self.head = nn.Linear(model.hidden, task.output_size)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.window(x, None, lengths)[0]

    def window(self, x: Tensor, state: Any, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """Outputs, and the state after them."""
        x = x if self.embedding is None else self.embedding(x)
        h, state = self.states(x, state)
        return self.read(x, h if self.norm is None else self.norm(h), lengths), state

    def truncated(self, x: Tensor, length: int, lengths: Tensor | None = None) -> Tensor:
        """Outputs of whole sequences, of which no gradient passes from one window to the one before."""
        whole = x if self.embedding is None else self.embedding(x)
        state, found = None, []
        for part in whole.split(length, self.time):
            h, state = self.states(part, state)
            state = detached(state)
            found.append(h)
        h = torch.cat(found, self.time)
        return self.read(x, h if self.norm is None else self.norm(h), lengths)

    def states(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.rnn(x, state)

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return self.head(h if self.each else self.last(h, lengths))

    def last(self, h: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            return h.select(self.time, -1)
        return h[lengths - 1, torch.arange(h.shape[1])]


def detached(state: Any) -> Any:
    """A state without its gradient."""
    if state is None or isinstance(state, Tensor):
        return None if state is None else state.detach()
    return tuple(s.detach() for s in state)


class StepByStep(Network):
    """Right: a loop over single steps that carries the state."""

    def states(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs = []
        for step in x.split(1, self.time):
            output, state = self.rnn(step, state)
            outputs.append(output)
        return torch.cat(outputs, self.time), state


class WrongAxis(Network):
    """The layer was made with batch_first as the data is not."""

    flips_axes = True


class LeakingState(Network):
    """The state after a batch is kept, and the next batch of other sequences starts from it."""

    kept: Any = None

    def states(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        if self.kept is not None and _first(self.kept).shape[1] == x.shape[1 - self.time]:
            state = self.kept
        h, state = self.rnn(x, state)
        self.kept = detached(state)
        return h, state


def _first(state: Any) -> Tensor:
    return state if isinstance(state, Tensor) else state[0]


class RolledState(Network):
    """A mistake in an index: each sequence reads the states of its neighbor in the batch as well."""

    def states(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, state = self.rnn(x, state)
        return h + h.roll(1, 1 - self.time), state


class EachStepAlone(Network):
    """The layer is called for every step without the state of the step before."""

    piece = 1

    def states(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return torch.cat([self.rnn(piece)[0] for piece in x.split(self.piece, self.time)], self.time), None


class EachWindowAlone(EachStepAlone):
    """The layer is called for windows of five steps, each from a zero state."""

    piece = 5


class UnusedLayer(Network):
    """A second recurrent layer was made and is never called."""

    def __init__(self, model: Model, task: Task) -> None:
        super().__init__(model, task)
        self.second = _layer(model, model.hidden, 1, task.batch_first)


class HeadReadsInput(Network):
    """The head reads a projection of the inputs: the states are computed and ignored."""

    def __init__(self, model: Model, task: Task) -> None:
        super().__init__(model, task)
        self.mix = nn.Linear(task.input_size, model.hidden)

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return super().read(x, self.mix(x), lengths)


class HeadDetached(Network):
    """The states are detached before the head, so that no gradient reaches the layer."""

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return super().read(x, h.detach(), lengths)


class HeadZeroed(Network):
    """The head's weight was set to zero and frozen."""

    def __init__(self, model: Model, task: Task) -> None:
        super().__init__(model, task)
        nn.init.zeros_(self.head.weight)
        self.head.weight.requires_grad_(False)


class SoftmaxOfOne(Network):
    """A softmax over the last axis of a single output: always 1."""

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return super().read(x, h, lengths).softmax(-1)


class InputZeroed(Network):
    """A mask with the wrong sign sets all inputs to zero."""

    def states(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.rnn(x * 0.0, state)


class ReadsPadding(Network):
    """The last step of the padded batch is read, not the last of each sequence."""

    def last(self, h: Tensor, lengths: Tensor | None) -> Tensor:
        return h[-1]


class Squeezed(Network):
    """The last axis of the output is dropped, that of the target is not: (B,) less (B, 1) is (B, B)."""

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return super().read(x, h, lengths).squeeze(-1)


class LayerAxis(Network):
    """Right: the head reads the final state with its axis of layers, and (1, B, 1) less (B, 1) is what it should be."""

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return super().read(x, h, lengths).unsqueeze(0)


class PaddedLeft(Network):
    """Right: sequences are padded at their start, and all of them end at the last step."""

    packs = False

    def window(self, x: Tensor, state: Any, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        assert lengths is not None and self.embedding is None
        late = torch.arange(len(x)).unsqueeze(1) - (len(x) - lengths)
        x = x.gather(0, late.clamp(min=0).unsqueeze(-1).expand_as(x)) * (late >= 0).unsqueeze(-1)
        if self.packs:
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
            _, state = self.rnn(x, state)
            return self.head(_first(state)[-1]), state
        h, state = self.rnn(x, state)
        return self.head(h[-1]), state


class PacksLeftPadding(PaddedLeft):
    """They are packed as if they were padded at their end: the last steps are cut off."""

    packs = True


class DeviationOfOne(Network):
    """Inputs are standardized over their channels: of a single channel that is 0 / 0."""

    def states(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.rnn((x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0), state)


class SoftmaxHead(Network):
    """The last function is a softmax, and the loss (a cross entropy) applies another one."""

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return super().read(x, h, lengths).softmax(-1)


class SigmoidHead(Network):
    """The last function is a sigmoid: right for targets from 0 to 1."""

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return super().read(x, h, lengths).sigmoid()


class TanhHead(Network):
    """The last function is a tanh: right for targets from -1 to 1."""

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return super().read(x, h, lengths).tanh()


class ReluHead(Network):
    """The last function is a ReLU: right for targets that are not negative."""

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return super().read(x, h, lengths).relu()


class DetachedSteps(Network):
    """A loop over single steps, to each of which the state is passed without its gradient."""

    every = 1

    def states(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs = []
        for t, step in enumerate(x.split(1, self.time)):
            output, state = self.rnn(step, state if t % self.every else detached(state))
            outputs.append(output)
        return torch.cat(outputs, self.time), state


class DetachedWindows(DetachedSteps):
    """Right: truncated backpropagation, the state is detached at the borders of windows of ten steps."""

    every = 10


class FrozenEmbedding(Network):
    """Right: the embedding is frozen on purpose, as pretrained ones are."""

    def __init__(self, model: Model, task: Task) -> None:
        super().__init__(model, task)
        assert self.embedding is not None
        self.embedding.requires_grad_(False)


class LayerInList(Network):
    """The recurrent layer is in a plain list, so it is not among the parameters that the optimizer gets."""

    def __init__(self, model: Model, task: Task) -> None:
        super().__init__(model, task)
        self.layers = [self._modules.pop("rnn")]

    @property
    def rnn(self) -> Any:
        return self.layers[0]

    @rnn.setter
    def rnn(self, layer: nn.Module) -> None:
        self._modules["rnn"] = layer


class Dropout(Network):
    """Right: dropout in training, none in eval mode."""

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return super().read(x, F.dropout(h, 0.5, self.training), lengths)


class DropoutAlways(Network):
    """Dropout in eval mode as well: ``training=self.training`` was forgotten."""

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return super().read(x, F.dropout(h, 0.5), lengths)


class Sampled(Network):
    """Right: a random state is drawn, in eval mode as well, as models of distributions do."""

    def read(self, x: Tensor, h: Tensor, lengths: Tensor | None) -> Tensor:
        return super().read(x, h + 0.1 * torch.randn_like(h), lengths)


class BothDirections(Network):
    """Right: the layer runs in both directions."""

    def __init__(self, model: Model, task: Task) -> None:
        super().__init__(model, task)
        kind = type(self.rnn)
        options = {"nonlinearity": model.cell} if kind is nn.RNN else {}
        self.rnn = kind(self.rnn.input_size, model.hidden, bidirectional=True, **options)
        self.head = nn.Linear(2 * model.hidden, task.output_size)


WIRINGS: dict[str, type[Network]] = {
    "": Network,
    "step by step": StepByStep,
    "wrong axis": WrongAxis,
    "leaking state": LeakingState,
    "rolled state": RolledState,
    "each step alone": EachStepAlone,
    "each window alone": EachWindowAlone,
    "unused layer": UnusedLayer,
    "head reads input": HeadReadsInput,
    "head detached": HeadDetached,
    "head zeroed": HeadZeroed,
    "softmax of one": SoftmaxOfOne,
    "input zeroed": InputZeroed,
    "reads padding": ReadsPadding,
    "deviation of one": DeviationOfOne,
    "squeezed": Squeezed,
    "layer axis": LayerAxis,
    "padded left": PaddedLeft,
    "packs left padding": PacksLeftPadding,
    "softmax head": SoftmaxHead,
    "sigmoid head": SigmoidHead,
    "tanh head": TanhHead,
    "relu head": ReluHead,
    "detached steps": DetachedSteps,
    "detached windows": DetachedWindows,
    "frozen embedding": FrozenEmbedding,
    "layer in a list": LayerInList,
    "dropout": Dropout,
    "dropout always": DropoutAlways,
    "sampled": Sampled,
    "both directions": BothDirections,
}

GATES = {"lstm": ("input", "forget", "candidate", "output"), "gru": ("reset", "update", "candidate")}


@torch.no_grad()
def _start(network: Network, name: str, value: float) -> None:
    """Change the initial weights: one of the ways to make a network sick, or to cure it."""
    rnn = network.rnn
    for layer in range(rnn.num_layers):
        ih, hh = getattr(rnn, f"weight_ih_l{layer}"), getattr(rnn, f"weight_hh_l{layer}")
        bias, other = getattr(rnn, f"bias_ih_l{layer}"), getattr(rnn, f"bias_hh_l{layer}")
        size = rnn.hidden_size
        if name == "orthogonal":  # times value
            for block in hh.split(size):
                nn.init.orthogonal_(block, gain=value)
        elif name == "identity":
            for block in hh.split(size):
                block.copy_(value * torch.eye(size))
            bias.zero_()
            other.zero_()
        elif name == "gauss":  # of standard deviation value / √H
            hh.normal_(0, value / math.sqrt(size))
        elif name == "one direction":  # one eigenvalue of 1, all others `value`
            basis = nn.init.orthogonal_(torch.empty(size, size))
            scales = torch.full((size,), value)
            scales[0] = 1.0
            hh.copy_(basis * scales @ basis.T)
        elif name == "scale U":
            ih.mul_(value)
        elif name == "bias":
            bias.fill_(value)
        elif name == "bias of most":  # of 23 in 24 units
            bias[: size * 23 // 24].fill_(value)
        elif name == "bias of some":
            bias[: size // 3].fill_(value)
        elif name.endswith(" bias"):
            gate = GATES[rnn.mode.lower()].index(name.removesuffix(" bias"))
            bias[gate * size : (gate + 1) * size].fill_(value)
            other[gate * size : (gate + 1) * size].zero_()
        elif name == "chrono":  # Tallec and Ollivier 2018, for lags up to value
            times = torch.empty(size).uniform_(1, value - 1).log()
            if rnn.mode == "LSTM":
                bias[size : 2 * size], bias[:size] = times, -times
            else:
                bias[size : 2 * size] = times
            other.zero_()
        elif name not in ("scale V",):
            raise ValueError(f"no start {name!r}")
    if name == "scale V":
        network.head.weight.mul_(value)
