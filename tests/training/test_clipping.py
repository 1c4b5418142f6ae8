import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrograde.errors import OptionError
from retrograde.training.clipping import Clipping


def parameters(*gradients):
    result = []
    for gradient in gradients:
        p = torch.nn.Parameter(torch.zeros(len(gradient)))
        p.grad = torch.tensor(gradient)
        result.append(p)
    return [*result, torch.nn.Parameter(torch.zeros(3))]  # one that had no part in the loss


finite = st.floats(-1e3, 1e3, width=32)


@settings(deadline=None)
@given(st.lists(st.lists(finite, min_size=1, max_size=4), min_size=1, max_size=3), st.floats(0.01, 100))
def test_norm_is_torchs_own(gradients, threshold):
    ours, theirs = parameters(*gradients), parameters(*gradients)
    measured = Clipping(clip_norm=threshold)(ours)
    norm = torch.nn.utils.clip_grad_norm_(theirs, threshold)
    assert torch.equal(measured.norm, norm)
    torch.testing.assert_close(measured.excess, norm / threshold)
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        assert torch.equal(a.grad, b.grad)


def test_value_cuts_components_and_tells_by_how_much():
    ps = parameters([0.5, -3.0], [2.0])
    measured = Clipping(clip_value=1.0)(ps)
    assert [p.grad.tolist() for p in ps[:-1]] == [[0.5, -1.0], [1.0]]
    assert measured.norm.item() == pytest.approx(math.sqrt(0.25 + 9 + 4))
    assert measured.excess.item() == 3.0
    # The norm is above 1 here, yet no component is.
    assert Clipping(clip_value=1.0)(parameters([0.9, 0.9, 0.9])).excess.item() < 1


def test_without_an_option_it_measures():
    ps = parameters([3.0, 4.0])
    measured = Clipping()(ps)
    assert (measured.norm.item(), measured.excess.item()) == (5.0, 0.0)
    assert ps[0].grad.tolist() == [3.0, 4.0]


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=30), st.floats(0.05, 1.0), st.integers(1, 40))
def test_adaptive_is_the_quantile_of_the_norms_seen(norms, quantile, window):
    clip = Clipping(clip_quantile=quantile, window=window)
    for n, norm in enumerate(norms):
        ps = parameters([norm])
        seen = torch.tensor(norms[: n + 1][-window:], dtype=torch.float32).double()
        measured = clip(ps)
        assert clip.threshold == pytest.approx(seen.quantile(quantile).item())
        assert measured.norm.item() == pytest.approx(norm)
        assert ps[0].grad.item() == pytest.approx(min(norm, clip.threshold), rel=1e-3)


def test_the_whole_quantile_clips_nothing():
    clip = Clipping(clip_quantile=1.0)
    for norm, threshold in ((2.0, 2.0), (1.0, 2.0), (4.0, 4.0), (3.0, 4.0)):
        ps = parameters([norm])
        assert clip(ps).excess.item() <= 1
        assert clip.threshold == threshold and ps[0].grad.item() == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("options", [{"clip_norm": 4.0}, {"clip_value": 4.0}, {"clip_quantile": 0.5}])
def test_a_gradient_exactly_at_the_threshold_is_not_in_excess(options):
    ps = parameters([4.0])
    assert Clipping(**options)(ps).excess.item() == 1.0
    assert ps[0].grad.item() == pytest.approx(4.0, rel=1e-5)


def test_the_quantile_is_of_the_newest_ten_thousand_norms():
    clip, norms = Clipping(clip_quantile=1.0), [5.0, *[1.0] * 9_999]
    clip.load_state_dict({"norms": torch.tensor(norms, dtype=torch.float64)})
    assert clip.threshold == 5.0
    clip(parameters([1.0]))
    assert clip.threshold == 1.0


def test_an_explosion_does_not_move_the_threshold():
    clip = Clipping(clip_quantile=0.9)
    for norm in (1.0, 1.0, math.inf, math.nan):
        measured = clip(parameters([norm]))
        assert clip.threshold == 1.0
    assert math.isnan(measured.norm.item())


def test_state_goes_on_as_if_it_had_not_stopped():
    norms = torch.rand(40, generator=torch.Generator().manual_seed(0)).tolist()
    whole, first, second = (Clipping(clip_quantile=0.3, window=15) for _ in range(3))

    def thresholds(clip, part):
        for norm in part:
            clip(parameters([norm]))
            yield clip.threshold

    wanted = list(thresholds(whole, norms))
    assert list(thresholds(first, norms[:25])) == wanted[:25]
    second.load_state_dict(first.state_dict())
    assert list(thresholds(second, norms[25:])) == wanted[25:]


def test_state_of_another_kind_is_refused():
    Clipping(clip_norm=1.0).load_state_dict(Clipping(clip_value=2.0).state_dict())
    with pytest.raises(OptionError, match=r"the state of clipping has \[\], not \['norms'\]"):
        Clipping(clip_quantile=0.5).load_state_dict(Clipping(clip_norm=1.0).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"clip_norm": math.nan}, "clip_norm is nan"),
        ({"clip_value": -1.0}, "clip_value is -1.0"),
        ({"clip_quantile": 0.0}, "clip_quantile is 0.0"),
        ({"clip_quantile": 1.1}, "clip_quantile is 1.1"),
        ({"clip_quantile": 0.5, "window": 0}, "window of clip_quantile is 0"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, "clip_norm and clip_value exclude one another"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(OptionError, match=message):
        Clipping(**options)
