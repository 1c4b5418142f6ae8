"""PyTorch's own module samples and error samples for its recurrent layers, run against ours."""

from functools import cache

import pytest
import torch

import retrograde as rg

# torch says so of its own LSTM too
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@cache
def torchs_own():
    """torch's samples, imported by the process that uses them: that takes seconds."""
    pytest.importorskip("expecttest", reason="torch's own samples need expecttest")
    from torch.testing._internal import common_modules

    return common_modules


def info_of(kind):
    (info,) = (info for info in torchs_own().module_db if info.module_cls is getattr(torch.nn, kind))
    return info


def floats(value):
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    return [t for item in value if item is not None for t in floats(item)]


def samples(kind, dtype, training):
    packed = {} if kind == "LSTM" else {"with_packed_sequence": True}
    info = info_of(kind)
    return info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training, **packed)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_torchs_samples(kind, dtype, training):
    torch.manual_seed(0)
    count = 0
    for sample in samples(kind, dtype, training):
        built, call = sample.constructor_input, sample.forward_input
        ours = getattr(rg.nn, kind)(*built.args, **built.kwargs).to(dtype).train(training)
        theirs = getattr(torch.nn, kind)(*built.args, **built.kwargs).to(dtype).train(training)
        theirs.load_state_dict(ours.state_dict())
        output, expected = (layer(*call.args, **call.kwargs) for layer in (ours, theirs))
        torch.testing.assert_close(floats(output), floats(expected))
        if sample.reference_fn is not None and isinstance(call.args[0], torch.Tensor):
            reference = sample.reference_fn(ours, *call.args, **call.kwargs)
            torch.testing.assert_close(floats(output), floats(reference))
        gradients, expected_gradients = (
            torch.autograd.grad(sum(t.sum() for t in floats(out)), list(layer.parameters()))
            for layer, out in ((ours, output), (theirs, expected))
        )
        for ours_of, theirs_of in zip(gradients, expected_gradients, strict=True):
            size = theirs_of.abs().max().clamp_min(1)  # sums: torch rounds them by 2e-6 of the largest itself
            torch.testing.assert_close(ours_of / size, theirs_of / size)
        count += 1
    assert count >= 16


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchs_error_samples(kind, dtype):
    info = info_of(kind)
    for sample in info.module_error_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=False):
        built, call = sample.module_error_input.constructor_input, sample.module_error_input.forward_input
        if sample.error_on is torchs_own().ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(sample.error_type, match=sample.error_regex):
                getattr(rg.nn, kind)(*built.args, **built.kwargs)
        else:
            layer = getattr(rg.nn, kind)(*built.args, **built.kwargs)
            with pytest.raises(sample.error_type, match=sample.error_regex):
                layer(*call.args, **call.kwargs)
