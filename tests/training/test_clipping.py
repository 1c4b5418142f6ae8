import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrograde.errors import OptionError
from retrograde.training.clipping import AdaptiveClipping, NormClipping, ValueClipping, clipping


def parameters(*gradients):
    result = []
    for gradient in gradients:
        p = torch.nn.Parameter(torch.zeros(len(gradient)))
        p.grad = torch.tensor(gradient)
        result.append(p)
    return [*result, torch.nn.Parameter(torch.zeros(3))]  # one that had no part in the loss


finite = st.floats(-1e3, 1e3, width=32)


@settings(deadline=None)  # the first call imports
@given(st.lists(st.lists(finite, min_size=1, max_size=4), min_size=1, max_size=3), st.floats(0.01, 100))
def test_norm_is_torchs_own(gradients, threshold):
    ours, theirs = parameters(*gradients), parameters(*gradients)
    result = NormClipping(threshold).clip_(ours)
    norm = float(torch.nn.utils.clip_grad_norm_(theirs, threshold))
    assert result.norm == norm
    assert result.threshold == threshold
    assert result.clipped == (norm > threshold)
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_value_cuts_components_and_counts():
    ps = parameters([0.5, -3.0], [2.0])
    result = ValueClipping(1.0).clip_(ps)
    assert [p.grad.tolist() for p in ps[:-1]] == [[0.5, -1.0], [1.0]]
    assert result == (pytest.approx(math.sqrt(0.25 + 9 + 4)), 1.0, True)
    # The norm is above 1 here, yet no component is.
    assert not ValueClipping(1.0).clip_(parameters([0.9, 0.9, 0.9])).clipped


def test_none_measures():
    ps = parameters([3.0, 4.0])
    assert clipping().clip_(ps) == (5.0, math.inf, False)
    assert ps[0].grad.tolist() == [3.0, 4.0]


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=30), st.floats(0.05, 1.0), st.integers(1, 40))
def test_adaptive_is_the_quantile_of_the_norms_seen(norms, quantile, window):
    clip = AdaptiveClipping(quantile, window)
    for n, norm in enumerate(norms):
        ps = parameters([norm])
        seen = torch.tensor([float(torch.tensor(x)) for x in norms[: n + 1][-window:]], dtype=torch.float64)
        want = float(seen.quantile(quantile))
        result = clip.clip_(ps)
        assert result.threshold == pytest.approx(want)
        assert result.norm == pytest.approx(norm)
        assert float(ps[0].grad) == pytest.approx(min(norm, want), rel=1e-4)


def test_an_explosion_does_not_move_the_threshold():
    clip = AdaptiveClipping(0.9)
    for norm in (1.0, 1.0, math.inf, math.nan):
        result = clip.clip_(parameters([norm]))
        assert result.threshold == 1.0
    assert not result.clipped


def test_state_goes_on_as_if_it_had_not_stopped():
    norms = torch.rand(40, generator=torch.Generator().manual_seed(0)).tolist()
    whole, first = AdaptiveClipping(0.3, window=15), AdaptiveClipping(0.3, window=15)
    thresholds = [whole.clip_(parameters([n])).threshold for n in norms]
    for n in norms[:25]:
        first.clip_(parameters([n]))
    second = AdaptiveClipping(0.3, window=15)
    second.load_state_dict(first.state_dict())
    assert [second.clip_(parameters([n])).threshold for n in norms[25:]] == thresholds[25:]


def test_state_of_another_kind_is_refused():
    NormClipping(1.0).load_state_dict(NormClipping(2.0).state_dict())
    with pytest.raises(OptionError, match="another clipping"):
        AdaptiveClipping().load_state_dict(NormClipping(1.0).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"clip_norm": math.nan}, "clip_norm is nan"),
        ({"clip_value": -1.0}, "clip_value is -1.0"),
        ({"clip_quantile": 0.0}, "clip_quantile is 0.0"),
        ({"clip_quantile": 1.1}, "clip_quantile is 1.1"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, "clip_norm and clip_value exclude one another"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(OptionError, match=message):
        clipping(**options)
