"""Inputs and outputs in tuples, dicts, records and packed sequences are found and named."""

from __future__ import annotations

import collections
import dataclasses

import pytest
import torch
from faulty import x
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import retrograde as rg
from retrograde.errors import FlowError


def test_packed_input_and_given_states_are_checked_too():
    packed = pack_sequence([x(5, 3), x(3, 3), x(1, 3)])
    check = rg.check_gradients(nn.LSTM(3, 4), packed, (x(1, 3, 4), x(1, 3, 4)))
    assert check.ok
    assert {e.name for e in check.errors if e.kind == "input"} == {"input.data", "hx[0]", "hx[1]"}


def test_a_whole_model_with_tokens_dicts_and_frozen_parameters():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(20, 4)
            self.rnn = rg.nn.GRU(4, 5, bidirectional=True)
            self.head = nn.Linear(10, 3)
            self.head.bias.requires_grad_(False)

        def forward(self, batch, scale=None):
            output, h_n = self.rnn(self.embedding(batch["tokens"]) * batch["weight"])
            return {"logits": self.head(output), "final": (h_n, batch["tokens"])}

    check = rg.check_gradients(Tagger(), {"tokens": torch.randint(0, 20, (5, 2)), "weight": x(5, 2, 1)}, None)
    assert check.ok
    assert "head.bias" not in {e.name for e in check.errors}
    assert {e.name for e in check.errors if e.kind == "input"} == {"batch['weight']"}
    assert {e.name for e in check.errors if e.kind == "output"} == {"output['logits']", "output['final'][0]"}


def test_inputs_in_records_are_checked_and_left_alone():
    @dataclasses.dataclass(frozen=True)
    class Batch:
        x: Tensor
        states: collections.OrderedDict

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4)

        def forward(self, batch):
            return self.rnn(batch.x, batch.states["h_0"])

    batch = Batch(x(), collections.OrderedDict(h_0=x(1, 2, 4)))
    check = rg.check_gradients(Model(), batch)
    assert check.ok
    assert {e.name for e in check.errors if e.kind == "input"} == {"batch.x", "batch.states['h_0']"}
    assert not batch.x.requires_grad and not batch.states["h_0"].requires_grad


def test_padded_lengths_as_an_integer_input():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            output, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
            return self.head(output[torch.arange(len(x)), lengths - 1])

    assert rg.check_gradients(Classifier(), x(3, 5, 3), torch.tensor([2, 5, 3])).ok


def test_a_constant_output_of_any_structure_keeps_its_type_and_its_gradient():
    """What the signal by lag holds constant: mappings, records, named and packed tuples; anything else is refused."""

    @dataclasses.dataclass(frozen=True)
    class Out:
        logits: Tensor
        steps: int

    weight = torch.ones(2, requires_grad=True)
    given = Out(weight * 3, 2), {"a": [weight * 2, None]}, pack_sequence([weight[:, None]])
    sample = rg.flow.Sample((), lambda output: output[0].logits + output[1]["a"][0] + output[2].data[:, 0])
    losses = sample.at_a_constant().loss(given)
    assert losses.tolist() == [0, 0]
    (found,) = torch.autograd.grad(losses[0], weight)
    assert found.isfinite().all()
    with pytest.raises(FlowError, match="The model returns object, in which the output cannot be found"):
        sample.at_a_constant().loss((object(),))
