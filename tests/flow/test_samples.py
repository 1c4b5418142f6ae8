"""``samples.py``: what is an input and what is a target in batches as anyone has them."""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pack_sequence

import retrograde as rg


def test_the_last_part_of_a_batch_is_its_target_and_the_others_are_inputs():
    x, lengths, y = torch.randn(5, 3, 2), torch.tensor([5, 4, 2]), torch.randn(3)
    packed = pack_sequence([torch.randn(n, 2) for n in (5, 4, 2)])

    def loss(output, target):
        return output - target

    for batch, inputs in (((x, y), (x,)), ([x, lengths, y], (x, lengths)), ((packed, y), (packed,))):
        (sample,) = rg.flow.samples_of([batch], loss)
        assert all(a is b for a, b in zip(sample.inputs, inputs, strict=True)) and sample.target is y
        assert torch.equal(sample.loss(torch.ones(3)), 1 - y) and torch.equal(sample.judged(2 * y)(y), -y)
    for alone in (x, packed):
        (sample,) = rg.flow.samples_of([alone], lambda output: output)
        assert sample.inputs == (alone,) and sample.target is None
