"""What is refused, with a message that says what to do: losses of the wrong form, models without a visible layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.errors import FlowError, OptionError

T, B = 20, 3


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def squares(output: Tensor) -> Tensor:
    return output.square().sum(-1)


def test_a_flattened_loss_is_told_its_shape() -> None:
    rnn, x = nn.GRU(2, 4), torch.randn(T, B, 2)
    with pytest.raises(FlowError, match=r"returned shape \(60,\).*losses\.view\(20, 3\), or losses\.view\(3, 20\)\.T"):
        rg.gradient_flow(rnn, x, loss=lambda o: squares(o[0]).flatten())
    with pytest.raises(FlowError, match=r"looks flattened, 19 steps of 3 sequences: return losses\.view\(19, 3\)"):
        rg.gradient_flow(rnn, x, loss=lambda o: squares(o[0][1:]).flatten())
    with pytest.raises(FlowError, match=r"flattened"):
        rg.flow.sequence_gradients(rnn, x, loss=lambda o: squares(o[0]).flatten())


class Tagger(nn.Module):
    """A tagger that reads words character by character: the first layer runs over T·B words."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.LSTM(2, 4, bidirectional=True)
        self.words = nn.LSTM(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        spelled = self.characters(x.flatten(1, 2))[1][0]
        return self.words(torch.cat([spelled[0], spelled[1]], -1).view(T, B, -1))[0]


def test_the_layer_nearest_to_the_loss_says_what_shape_it_has() -> None:
    model, x = Tagger(), torch.randn(7, T, B, 2)  # characters, words, sentences
    flow = rg.gradient_flow(model, x, loss=squares)
    assert flow.steps == [7, 7, T]
    assert any("characters.l0 ran over 60 sequences, the loss has 3" in note for note in flow.notes)
    assert (flow.lag("words.l0") == np.arange(T)[:, None] - np.arange(T)).all()
    for wrong in (lambda o: o, lambda o: squares(o).flatten(), lambda o: squares(o).T, lambda o: squares(o).sum()):
        with pytest.raises(
            FlowError, match=r"losses by step \(T, B\) = \(20, 3\), or one per sequence \(B,\) = \(3,\)"
        ):
            rg.gradient_flow(model, x, loss=wrong)
    with pytest.raises(FlowError, match=r"layer characters\.l0 ran with 60: .* leave it out with layers="):
        rg.gradient_flow(model, x, loss=squares, reduce="none")
    alone = rg.gradient_flow(model, x, loss=squares, reduce="none", layers=["words.l0"])
    assert alone.norms.shape == (1, T, T, B)


def test_the_norms_of_other_sequences_are_a_mean_over_those_that_have_a_gradient() -> None:
    model, x = Tagger(), torch.randn(7, T, B, 2)
    flow = rg.gradient_flow(model, x, loss=squares, targets=[0])
    word = rg.gradient_flow(
        lambda x: model.words(torch.cat(tuple(model.characters(x)[1][0]), -1)[None])[0],
        x[:, 0],
        loss=lambda o: squares(o),
    )
    i, j = flow.layer_index("characters.l0"), next(k for k, label in enumerate(word.layers) if "characters.l0" in label)
    np.testing.assert_allclose(flow.norms[i, 0, :7], word.norms[j, 0, :7], rtol=1e-5)


def test_a_layer_that_stands_alone_is_not_told_to_choose_another() -> None:
    rnn, x = nn.GRU(2, 4), torch.randn(T, B, 2)
    with pytest.raises(FlowError, match=r"^state is 'c', but only an LSTM has a cell state; use 'h' or 'hc'\.$"):
        rg.gradient_flow(rnn, x, loss=lambda o: squares(o[0]), state="c")


@pytest.mark.parametrize("how", [torch.no_grad, torch.inference_mode])
def test_a_forward_without_gradients_is_named(how: type) -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(2, 4)

        @how()
        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    with pytest.raises(FlowError, match=r"Layer l0 ran without gradients \(torch\.no_grad or inference_mode"):
        rg.gradient_flow(Frozen(), torch.randn(T, B, 2), loss=squares)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_quantized_model_is_named() -> None:
    model = nn.Sequential(nn.LSTM(2, 4))
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM}, dtype=torch.qint8)
    with pytest.raises(FlowError, match=r"0 is quantized \(torch\.ao\..*measure the floating-point model"):
        rg.gradient_flow(quantized, torch.randn(T, B, 2), loss=lambda o: squares(o[0]))


def test_a_wrapper_that_cannot_be_called_is_told_where_its_network_is() -> None:
    class Net:  # as skorch's
        def __init__(self) -> None:
            self.module_ = nn.GRU(2, 4)

    for wrong in (Net(), type("Bare", (), {})(), 3):
        with pytest.raises(OptionError) as caught:
            rg.gradient_flow(wrong, torch.randn(T, B, 2), loss=lambda o: squares(o[0]))
        assert ("give its module_" in str(caught.value)) == isinstance(wrong, Net)
        assert type(wrong).__name__ in str(caught.value)


def test_losses_of_an_unbatched_input_may_leave_steps_out_or_be_one_number() -> None:
    rnn, x = nn.GRU(2, 4), torch.randn(T, 2)
    batched = rg.gradient_flow(rnn, x[:, None], loss=lambda o: squares(o[0][2:]))
    flow = rg.gradient_flow(rnn, x, loss=lambda o: squares(o[0][2:]))
    np.testing.assert_allclose(flow.norms, batched.norms, rtol=1e-6)
    for lag in (0, 3):
        pairs = [flow.norms[0, n, t - lag] for n, t in enumerate(range(2, T)) if t >= lag]
        np.testing.assert_allclose(flow.by_lag()[0, lag], np.mean(pairs), rtol=1e-6)
    assert (flow.lag() == np.arange(2, T)[:, None] - np.arange(T)).all()
    two = rg.gradient_flow(rnn, x, loss=lambda o: squares(o[0][-2:]))
    assert not two.final
    np.testing.assert_allclose(two.norms, flow.norms[:, -2:], rtol=1e-6)
    last = rg.gradient_flow(rnn, x, loss=lambda o: squares(o[0][-1]))
    assert last.final and (last.lag()[0] == T - 1 - np.arange(T)).all()
    np.testing.assert_allclose(last.norms[0, 0], flow.norms[0, -1], rtol=1e-6)


def test_losses_without_any_are_refused() -> None:
    with pytest.raises(FlowError, match=r"shape \(0, 3\), which is empty"):
        rg.gradient_flow(nn.GRU(2, 4), torch.randn(T, B, 2), loss=lambda o: squares(o[0][:0]))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"targets": ["a"]}, r"targets is \['a'\]; give a list of steps"),
        ({"targets": 5}, "targets is 5; give a list of steps"),
        ({"targets": [1.5]}, r"targets is \[1\.5\]; give a list of steps"),
        ({"layers": 3}, "layers is 3; give a list of labels: this model has l0"),
        ({"lengths": "abc"}, "lengths is 'abc'; expected 3 whole numbers"),
        ({"lengths": [1.5, 2, 3]}, r"lengths is \[1\.5.*; expected 3 whole numbers"),
        ({"reduce": None}, "reduce is None; choose 'mean'"),
        ({"kwargs": 3}, "kwargs is 3; give a dict"),
        ({"loss_at": {"l7": 3}}, r"loss_at names l7; the layers are l0\."),
        ({"loss_at": -1}, "loss_at is -1; give the layer's step"),
    ],
)
def test_options_of_another_form_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises((FlowError, OptionError), match=message):
        rg.gradient_flow(nn.GRU(2, 4), torch.randn(T, B, 2), loss=lambda o: squares(o[0]), **option)


@pytest.mark.parametrize("names", [3, "abc", ["a"]])
def test_names_of_another_form_are_refused(names: object) -> None:
    with pytest.raises(FlowError, match=r"names (is|has) "):
        rg.flow.sequence_gradients(nn.GRU(2, 4), torch.randn(T, B, 2), loss=lambda o: squares(o[0]), names=names)


def test_losses_of_a_final_state_with_its_axis_of_layers_are_one_per_sequence() -> None:
    layer, x = nn.GRU(2, 4), torch.randn(T, B, 2)
    whole = rg.gradient_flow(layer, x, loss=lambda o: squares(o[1]))  # (1, B)
    alone = rg.gradient_flow(layer, x, loss=lambda o: squares(o[1][0]))
    assert whole.final and np.array_equal(whole.norms, alone.norms) and np.array_equal(whole.lag(), alone.lag())
    assert not rg.gradient_flow(layer, x[:1], loss=lambda o: squares(o[0])).final  # a single step


def test_the_need_of_a_final_state_with_its_axis_of_layers_is_known() -> None:
    layer, head = nn.RNN(1, 16), nn.Linear(16, 1)
    x = torch.randn(12, 256, 1)

    def loss(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        return (head(output[1])[..., 0] - target).square()

    assert rg.flow.need_of(layer, (x, x[-4, :, 0]), loss).need == 3
