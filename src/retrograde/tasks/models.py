"""The networks of the tasks: a recurrent layer between an optional embedding and an output layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.overrides import TorchFunctionMode

from ..cells import CellName, Nonlinearity
from ..data.categories import ONE_HOT, width
from ..errors import OptionError
from ..nn import VariationalDropout, recurrent_layer
from ..options import ModelOptions
from .task import State

RIDGE_SHARE = "ridge_share"  # buffer of a network that predicts together with ridge regression
Pooling = Literal["last", "mean", "max", "none"]


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[torch.device]:
    """Put a network into eval mode without gradients for a while; yields the device it is on."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield next(network.parameters()).device
    finally:
        network.train(was_training)


@contextmanager
def without_values() -> Iterator[None]:
    """Build models whose parameters have a shape but no values and no memory (torch's device ``meta``)."""
    with torch.device("meta"), _NotInitialized():
        yield


class _NotInitialized(TorchFunctionMode):
    """Skip what fills parameters with random numbers: on ``meta`` that only loads torch's compiler (seconds)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _recurrent(options: ModelOptions) -> dict[str, Any]:
    """The options that go to `retrograde.nn.recurrent_layer` as they are."""
    own = {"hidden_size", "embedding_size", "dropout", "bidirectional", "pooling", "tie"}
    return {one.name: getattr(options, one.name) for one in fields(ModelOptions) if one.name not in own}


class LanguageModel(nn.Module):
    """Embedding, recurrent layers and an output layer that predicts the next token.

    Parameters
    ----------
    vocabulary_size, embedding_size, hidden_size, num_layers : int
    cell : CellName
    nonlinearity : {"tanh", "relu"}
        Nonlinearity of the RNN cell.
    dropout : float
        On the embedding, between layers and before the output layer. With ``recurrent_dropout`` there is one mask for
        all steps of a sequence, otherwise one for each step.
    tie : bool
        Use the embedding as output weights too (Press and Wolf 2017, arXiv:1608.05859). If ``embedding_size`` differs
        from ``hidden_size``, a linear projection connects them.
    **remedies
        Further options of `retrograde.nn.recurrent_layer`: initialization, normalization, dropout of weights.

    Examples
    --------
    >>> model = LanguageModel(vocabulary_size=11, embedding_size=4, hidden_size=8)
    >>> logits, state = model(torch.zeros(5, 2, dtype=torch.int64))
    >>> logits.shape
    torch.Size([5, 2, 11])
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int = 128,
        hidden_size: int = 256,
        num_layers: int = 1,
        cell: CellName = "lstm",
        nonlinearity: Nonlinearity = "tanh",
        dropout: float = 0.0,
        tie: bool = False,
        **remedies: Any,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.recurrent = recurrent_layer(
            embedding_size,
            hidden_size,
            cell=cell,
            num_layers=num_layers,
            nonlinearity=nonlinearity,
            dropout=dropout,
            **remedies,
        )
        # Gal and Ghahramani (2016) use one mask for all steps everywhere, not only for the state.
        self.dropout = VariationalDropout(dropout) if remedies.get("recurrent_dropout") else nn.Dropout(dropout)
        projected = tie and embedding_size != hidden_size
        self.projection = nn.Linear(hidden_size, embedding_size, bias=False) if projected else None
        self.output = nn.Linear(embedding_size if tie else hidden_size, vocabulary_size)
        if tie:
            # As output weights, embeddings of the usual unit variance would start with logits of size √E.
            nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
            self.output.weight = self.embedding.weight

    @classmethod
    def of(cls, vocabulary_size: int, options: ModelOptions) -> LanguageModel:
        """The model that options describe."""
        return cls(
            vocabulary_size,
            options.embedding_size,
            options.hidden_size,
            dropout=options.dropout,
            tie=options.tie,
            **_recurrent(options),
        )

    def forward(self, tokens: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Logits of the next token at every step.

        tokens: ``(T, B)`` int64.
        state: h_0 (and c_0), each ``(num_layers, B, hidden_size)``; zeros if not given.
        Returns logits: ``(T, B, vocabulary_size)``; state: after the last step.
        """
        hidden, state = self.recurrent(self.dropout(self.embedding(tokens)), state)
        hidden = self.dropout(hidden)
        if self.projection is not None:
            hidden = self.projection(hidden)
        return self.output(hidden), state


class Categories(nn.Module):
    """Turns channels that are numbers of categories into one-hot vectors or, of many categories, embeddings.

    Category 0, an empty or unknown one, becomes zeros. The other channels come first, as they are.

    Parameters
    ----------
    channels : int
    classes : dict
        From the place of a channel to how many categories it has.

    Examples
    --------
    >>> read = Categories(3, {1: 2})
    >>> read.width, read(torch.tensor([[5.0, 2.0, 7.0]])).tolist()
    (4, [[5.0, 7.0, 0.0, 1.0]])
    """

    def __init__(self, channels: int, classes: Mapping[int, int]) -> None:
        super().__init__()
        self.classes = dict(classes)
        self.others = [place for place in range(channels) if place not in classes]
        self.width = len(self.others) + sum(map(width, classes.values()))
        self.embeddings = nn.ModuleDict(
            {
                str(place): nn.Embedding(count + 1, width(count), padding_idx=0)
                for place, count in classes.items()
                if count > ONE_HOT
            }
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """``(…, channels)`` to ``(…, width)``."""
        found = [inputs[..., self.others]]
        for place, count in self.classes.items():
            numbers = inputs[..., place].round().long().clamp(0, count)
            if str(place) in self.embeddings:
                found.append(self.embeddings[str(place)](numbers))
            else:
                found.append(nn.functional.one_hot(numbers, count + 1)[..., 1:].to(inputs.dtype))
        return torch.cat(found, dim=-1)


class SequenceModel(nn.Module):
    """Embedding (of tokens, or of categories among numbers) or nothing, recurrent layers, pooling, output layer.

    Parameters
    ----------
    input_size : int
        Number of different tokens, or of channels.
    outputs : int
        Numbers of the output: per sequence, or per step with ``pooling="none"``.
    embedding_size : int or None
        Size of the vector for each token; None if the input is numbers.
    pooling : {"last", "mean", "max", "none"}
        What the output layer reads: the state after the last step of each sequence (of the backward direction: after
        the first), the mean or maximum over its steps, or the state of every step.
    dropout : float
        On the embedding, between layers, and before the output layer.
    classes : dict, optional
        Channels that are numbers of categories, see `Categories`.
    **recurrent
        See `retrograde.nn.recurrent_layer`.

    Examples
    --------
    >>> model = SequenceModel(input_size=11, outputs=2, embedding_size=4, hidden_size=8)
    >>> model(torch.zeros(5, 3, dtype=torch.int64), torch.tensor([5, 2, 1])).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        input_size: int,
        outputs: int,
        hidden_size: int,
        embedding_size: int | None = None,
        pooling: Pooling = "last",
        dropout: float = 0.0,
        bidirectional: bool = False,
        classes: Mapping[int, int] | None = None,
        **recurrent: Any,
    ) -> None:
        super().__init__()
        if pooling not in ("last", "mean", "max", "none"):
            raise OptionError(f"--pooling {pooling!r} is unknown: choose from last, mean, max.")
        self.pooling: Pooling = pooling
        self.embedding: nn.Embedding | Categories | None = None
        size = input_size
        if embedding_size is not None:
            self.embedding, size = nn.Embedding(input_size, embedding_size), embedding_size
        elif classes:
            self.embedding = Categories(input_size, classes)
            size = self.embedding.width
        self.recurrent = recurrent_layer(size, hidden_size, dropout=dropout, bidirectional=bidirectional, **recurrent)
        self.directions = 2 if bidirectional else 1
        self.input_dropout = VariationalDropout(dropout if embedding_size is not None else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size * self.directions, outputs)

    @classmethod
    def of(
        cls,
        input_size: int,
        outputs: int,
        options: ModelOptions,
        pooling: Pooling = "last",
        tokens: bool = False,
        classes: Mapping[int, int] | None = None,
    ) -> SequenceModel:
        """The model that options describe; ``tokens``: the input is token numbers."""
        return cls(
            input_size,
            outputs,
            options.hidden_size,
            options.embedding_size if tokens else None,
            pooling,
            options.dropout,
            options.bidirectional,
            classes,
            **_recurrent(options),
        )

    @property
    def part_of(self) -> str:
        """Of which predictions this is only a part, in words; empty if it is all of them."""
        share = float(getattr(self, RIDGE_SHARE, 0.0))
        return f"ridge regression has a share of {share:.0%} in what is predicted next to this network" if share else ""

    def read(self, inputs: Tensor) -> Tensor:
        """What the recurrent layers read of inputs."""
        return inputs if self.embedding is None else self.embedding(inputs)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Outputs for padded sequences.

        inputs: ``(T, B)`` int64 tokens or ``(T, B, F)`` numbers.
        lengths: ``(B,)`` int64, at least 1; all are T if not given. Steps beyond the length are not read.
        Returns ``(B, outputs)``, or ``(T, B, outputs)`` with ``pooling="none"``.
        """
        ragged = lengths is not None and int(lengths.min()) < len(inputs)
        if ragged:
            assert lengths is not None
            packed = pack_padded_sequence(inputs, lengths.cpu(), enforce_sorted=False)
            read: Any = packed._replace(data=self.read(packed.data)) if self.embedding is not None else packed
        else:
            read = self.read(inputs)
        hidden, state = self.recurrent(self.input_dropout(read))
        if self.pooling == "last":
            h_n = state[0] if isinstance(state, tuple) else state
            hidden = torch.cat(list(h_n[-self.directions :]), dim=-1)
        elif self.pooling == "none" and isinstance(hidden, PackedSequence):
            hidden = hidden._replace(data=self.output(self.dropout(hidden.data)))
            return pad_packed_sequence(hidden, total_length=len(inputs))[0]
        elif self.pooling != "none":
            hidden = _pool(hidden, self.pooling, lengths if ragged else None)
        return self.output(self.dropout(hidden))  # type: ignore[no-any-return]


def _pool(hidden: Any, pooling: Pooling, lengths: Tensor | None) -> Tensor:
    """Mean or maximum of the states over the steps of each sequence."""
    if lengths is None:
        return hidden.mean(0) if pooling == "mean" else hidden.amax(0)  # type: ignore[no-any-return]
    padded, _ = pad_packed_sequence(hidden, padding_value=0.0 if pooling == "mean" else -math.inf)
    if pooling == "max":
        return padded.amax(0)
    return padded.sum(0) / lengths.to(padded.device)[:, None]
