"""Our layers beside torch.nn's: the same numbers, gradients, errors and life cycle, over all options."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import retrograde as rg

# torch says so of its own LSTM too
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

KINDS = ["RNN", "GRU", "LSTM"]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def twins(kind, *args, **options):
    """One of torch.nn's layers and one of ours, with the same weights."""
    theirs = getattr(torch.nn, kind)(*args, **options)
    ours = getattr(rg.nn, kind)(*args, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def tensors(value):
    """The tensors of a nested output, in order."""
    if isinstance(value, PackedSequence):
        return [t for t in value if t is not None]
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for item in value for t in tensors(item)]


def states(hx):
    return None if hx is None else hx[0] if len(hx) == 1 else tuple(hx)


@st.composite
def cases(draw):
    kind = draw(st.sampled_from(KINDS))
    options = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
    }
    if options["num_layers"] > 1:
        options["dropout"] = draw(st.sampled_from([0.0, 0.5, 1.0]))
    if kind == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    hidden = draw(st.integers(1, 9))
    if kind == "LSTM" and hidden > 1:
        options["proj_size"] = draw(st.integers(0, hidden - 1))
    return {
        "kind": kind,
        "sizes": (draw(st.integers(1, 6)), hidden),
        "options": options,
        "form": draw(st.sampled_from(["batched", "unbatched", "sorted", "unsorted"])),
        "T": draw(st.integers(1, 6)),
        "B": draw(st.integers(1, 4)),
        "given": draw(st.booleans()),
        "train": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**31)),
    }


def inputs_of(case):
    """Input and initial states, leaves that want gradients, and what to call a layer with."""
    input_size, hidden = case["sizes"]
    options, T, B = case["options"], case["T"], case["B"]
    generator = torch.Generator().manual_seed(case["seed"])

    def leaf(*shape):
        return torch.randn(*shape, generator=generator, dtype=options["dtype"]).requires_grad_()

    rows = options["num_layers"] * (2 if options["bidirectional"] else 1)
    batch = () if case["form"] == "unbatched" else (B,)
    sizes = [options.get("proj_size") or hidden] + ([hidden] if case["kind"] == "LSTM" else [])
    hx = [leaf(rows, *batch, size) for size in sizes] if case["given"] else None
    if case["form"] == "unbatched":
        x = leaf(T, input_size)
        return [x, *(hx or [])], x, states(hx)
    x = leaf(*((B, T) if options["batch_first"] else (T, B)), input_size)
    if case["form"] == "batched":
        return [x, *(hx or [])], x, states(hx)
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    if case["form"] == "sorted":
        lengths = lengths.sort(descending=True).values
    packed = pack_padded_sequence(x, lengths, options["batch_first"], enforce_sorted=case["form"] == "sorted")
    return [x, *(hx or [])], packed, states(hx)


@settings(max_examples=120, deadline=None)
@given(cases())
def test_same_numbers_and_gradients_as_torch_nn(case):
    theirs, ours = twins(case["kind"], *case["sizes"], **case["options"])
    theirs.train(case["train"])
    ours.train(case["train"])
    results = []
    for layer in (theirs, ours):
        leaves, x, hx = inputs_of(case)
        torch.manual_seed(case["seed"])  # the same units dropped
        out = tensors(layer(x, hx))
        floats = [t for t in out if t.is_floating_point()]
        sum((t * torch.arange(1, t.numel() + 1).reshape(t.shape).to(t)).sum() for t in floats).backward()
        results.append((out, [leaf.grad for leaf in leaves] + [p.grad for p in layer.parameters()]))
    (out, gradients), (our_out, our_gradients) = results
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if case["options"]["dtype"] == torch.float32 else {}
    torch.testing.assert_close(our_out, out, **tolerance)
    for ours_grad, grad in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(ours_grad, grad, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_same_state_comes_back_from_no_grad_and_inference_mode(kind):
    theirs, ours = twins(kind, 3, 5, 2, bidirectional=True)
    x = torch.randn(4, 2, 3)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            mine, reference = tensors(ours(x)), tensors(theirs(x))
        torch.testing.assert_close(mine, reference)
        assert not any(t.requires_grad for t in mine)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_computes_as_torch_nn(kind):
    theirs, ours = twins(kind, 3, 5, dtype=torch.bfloat16)
    x = torch.randn(4, 2, 3, dtype=torch.bfloat16)
    torch.testing.assert_close(tensors(ours(x)), tensors(theirs(x)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs, ours = twins(kind, 3, 5)
        x = torch.randn(4, 2, 3)
        torch.testing.assert_close(tensors(ours(x)), tensors(theirs(x)))
        torch.testing.assert_close(tensors(ours(x.bfloat16())), tensors(theirs(x.bfloat16())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_first_and_second_derivatives_are_right(kind, bidirectional):
    torch.manual_seed(0)
    layer = getattr(rg.nn, kind)(2, 3, 2, bidirectional=bidirectional, dtype=torch.float64)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *weights):
        return tensors(torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,)))[0]

    weights = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(run, (x, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, *weights), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_func_transforms(kind):
    theirs, ours = twins(kind, 2, 3, dtype=torch.float64)
    x = torch.randn(4, 2, 2, dtype=torch.float64)

    def loss(weights, x, layer):
        return tensors(torch.func.functional_call(layer, weights, (x,)))[0].square().sum()

    weights = dict(theirs.named_parameters())
    reference = torch.func.grad(loss)(weights, x, theirs)
    gradients = torch.func.grad(loss)(weights, x, ours)
    torch.testing.assert_close(gradients, reference)

    def per_sequence(layer):
        per_row = torch.func.vmap(torch.func.grad(loss), (None, 1, None))
        return [gradient.sum(0) for gradient in per_row(weights, x.unsqueeze(2), layer).values()]

    assert outcome(lambda: per_sequence(ours)) == outcome(lambda: per_sequence(theirs))  # not every torch can
    _, slope = torch.func.jvp(lambda x: loss(weights, x, ours), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(slope, torch.func.grad(lambda x: loss(weights, x, theirs))(x).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_many_gradients_at_once(kind):
    theirs, ours = twins(kind, 2, 3, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(4, 2, 2, dtype=torch.float64)
    jacobians = [
        torch.autograd.functional.jacobian(lambda x, layer=layer: tensors(layer(x))[0], x, vectorize=vectorize)
        for layer, vectorize in ((theirs, False), (ours, False), (ours, True))
    ]
    torch.testing.assert_close(jacobians[1], jacobians[0])
    torch.testing.assert_close(jacobians[2], jacobians[0])


# The same mistakes, the same words.

X = torch.zeros(4, 2, 3)
H = torch.zeros(1, 2, 5)
MISTAKES = {
    "no sequence": (torch.zeros(3), None),
    "four dimensions": (torch.zeros(1, 4, 2, 3), None),
    "a number": (torch.tensor(1.0), None),
    "input_size": (torch.zeros(4, 2, 7), None),
    "input_size unbatched": (torch.zeros(4, 7), None),
    "dtype": (X.double(), None),
    "integers": (torch.zeros(4, 2, 3, dtype=torch.int64), None),
    "h_0 for another batch": (X, torch.zeros(1, 9, 5)),
    "h_0 of another size": (X, torch.zeros(1, 2, 9)),
    "h_0 without a batch": (X, torch.zeros(1, 5)),
    "h_0 with one too many": (torch.zeros(4, 3), H),
    "h_0 of another type": (X, H.double()),
    "h_0 of no tensor": (X, "zeros"),
    "a list": ([[0.0]], None),
    "no steps": (torch.zeros(0, 2, 3), None),
    "no steps unbatched": (torch.zeros(0, 3), None),
    "packed, input_size": (pack_sequence([torch.zeros(4, 7), torch.zeros(2, 7)]), None),
    "packed, h_0": (pack_sequence([torch.zeros(4, 3), torch.zeros(2, 3)]), torch.zeros(1, 3, 5)),
    "packed unsorted, h_0": (
        pack_sequence([torch.zeros(2, 3), torch.zeros(4, 3)], enforce_sorted=False),
        torch.zeros(1, 1, 5),
    ),
    "another device": (X.to("meta"), None),
}


def outcome(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return [tuple(t.shape) for t in tensors(run())]
        except Exception as error:
            return type(error), str(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_bad_input_raises_what_torch_nn_raises(kind, batch_first, mistake):
    theirs, ours = twins(kind, 3, 5, batch_first=batch_first)
    x, h = MISTAKES[mistake]
    for hx in [h] if h is None else [h, (h, h), (h, H), [h, h], (h,), (h, h, h)]:
        expected = outcome(lambda hx=hx: theirs(x, hx))
        assert outcome(lambda hx=hx: ours(x, hx)) == expected
        if h is None and not batch_first:
            assert isinstance(expected[0], type), f"{mistake} is no mistake"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((), {}),
        ((3,), {}),
        ((0, 5), {}),
        ((3, -1), {}),
        ((3, 5.0), {}),
        (("3", 5), {}),
        ((3, 5, 0), {}),
        ((3, 5), {"bias": 1}),
        ((3, 5), {"batch_first": "yes"}),
        ((3, 5), {"dropout": 2}),
        ((3, 5), {"dropout": True}),
        ((3, 5), {"dropout": None}),
        ((3, 5), {"proj_size": 5}),
        ((3, 5), {"proj_size": -1}),
        ((3, 5), {"nonlinearity": "sine"}),
        ((3, 5, 1, "relu"), {}),
        ((3, 5), {"layers": 2}),
        ((3, 5), {"dtype": torch.int64}),
    ],
)
def test_bad_options_raise_what_torch_nn_raises(kind, args, options):
    def built(namespace):
        return outcome(lambda: list(getattr(namespace, kind)(*args, **options).parameters()))

    assert built(rg.nn) == built(torch.nn)


def test_dropout_on_one_layer_warns_as_torch_nn():
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        rg.nn.GRU(3, 5, dropout=0.5)


# Life of a layer.


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_looks_and_starts_like_torch_nn(kind):
    torch.manual_seed(5)
    theirs = getattr(torch.nn, kind)(3, 5, 2, dropout=0.1, bidirectional=True)
    torch.manual_seed(5)
    ours = getattr(rg.nn, kind)(3, 5, 2, dropout=0.1, bidirectional=True)
    assert isinstance(ours, getattr(torch.nn, kind))
    assert repr(ours) == repr(theirs)
    assert (type(ours).__module__, type(ours).__name__) == ("retrograde.nn", kind)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    theirs.load_state_dict(ours.state_dict())
    assert [[w.shape for w in row] for row in ours.all_weights] == [
        [w.shape for w in row] for row in theirs.all_weights
    ]
    ours.reset_parameters()
    bound = 1 / 5**0.5
    assert all(p.abs().max() <= bound for p in ours.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_copies_pickles_and_moves_compute_the_same(kind):
    layer = getattr(rg.nn, kind)(3, 5, 2)
    x = torch.randn(4, 2, 3)
    expected = tensors(layer(x))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    empty = getattr(rg.nn, kind)(3, 5, 2, device="meta")
    assert tensors(empty(x.to("meta")))[0].shape == expected[0].shape
    empty.to_empty(device="cpu").load_state_dict(layer.state_dict())
    for other in (
        copy.deepcopy(layer),
        copy.copy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
        copy.deepcopy(layer).double().float(),
        empty,
    ):
        other.flatten_parameters()
        torch.testing.assert_close(tensors(other(x)), expected)
    with torch.no_grad():  # a copy has weights of its own
        other = copy.deepcopy(layer)
        other.weight_hh_l0.zero_()
    torch.testing.assert_close(tensors(layer(x)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_that_is_replaced_is_used(kind):
    theirs, ours = twins(kind, 3, 5)
    x = torch.randn(4, 2, 3)
    for layer in (theirs, ours):
        layer.weight_hh_l0 = torch.nn.Parameter(torch.ones_like(layer.weight_hh_l0))
    torch.testing.assert_close(tensors(ours(x)), tensors(theirs(x)))


PARAMETRISE = {
    "orthogonal": lambda layer, name: parametrizations.orthogonal(layer, name),
    "spectral_norm": lambda layer, name: parametrizations.spectral_norm(layer, name),
    "weight_norm": lambda layer, name: parametrizations.weight_norm(layer, name),
    "dropped": lambda layer, name: parametrize.register_parametrization(layer, name, torch.nn.Dropout(0.5)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", PARAMETRISE)
def test_a_parametrised_weight_is_the_one_used_and_learns_through_its_original(kind, how):
    torch.manual_seed(1)
    layer = getattr(rg.nn, kind)(3, 6, 2)
    name = "weight_hh_l1"
    PARAMETRISE[how](layer, name)
    x = torch.randn(5, 2, 3)
    for train in (True, False, True):
        layer.train(train)
        torch.manual_seed(2)
        before = copy.deepcopy(layer)  # spectral_norm moves its vectors at each training step
        output = tensors(layer(x))[0]
        plain = getattr(torch.nn, kind)(3, 6, 2)
        torch.manual_seed(2)
        with torch.no_grad():
            used = getattr(before, name)
            weights = {n: used if n == name else getattr(before, n) for n in plain.state_dict()}
        plain.load_state_dict(weights)
        torch.testing.assert_close(output, tensors(plain(x))[0])
        layer.zero_grad()
        output.square().sum().backward()
        originals = [p for n, p in layer.named_parameters() if n.startswith("parametrizations")]
        assert originals
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in originals)
        assert all(p.grad is not None for p in layer.parameters())
    layer.eval()
    expected = tensors(layer(x))
    torch.testing.assert_close(tensors(copy.deepcopy(layer)(x)), expected)
    layer.double().float()
    parametrize.remove_parametrizations(layer, name)
    assert type(layer) is getattr(rg.nn, kind)
    torch.testing.assert_close(tensors(layer(x)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_parametrisation_is_computed_once_a_call(kind):
    calls = []

    class Counted(torch.nn.Module):
        def forward(self, weight):
            calls.append(1)
            return weight

    layer = getattr(rg.nn, kind)(3, 5)
    parametrize.register_parametrization(layer, "weight_hh_l0", Counted())
    calls.clear()
    layer(torch.randn(4, 2, 3))
    assert len(calls) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_pruning_and_its_undoing(kind):
    layer = getattr(rg.nn, kind)(3, 5)
    x = torch.randn(4, 2, 3)
    prune.random_unstructured(layer, "weight_hh_l0", amount=0.5)
    pruned = tensors(layer(x))[0]
    plain = getattr(torch.nn, kind)(3, 5)
    plain.load_state_dict({name: getattr(layer, name).detach() for name in plain.state_dict()})
    torch.testing.assert_close(pruned, tensors(plain(x))[0])
    pruned.sum().backward()
    assert (layer.weight_hh_l0_orig.grad[layer.weight_hh_l0_mask == 0] == 0).all()
    prune.remove(layer, "weight_hh_l0")
    torch.testing.assert_close(tensors(layer(x))[0], pruned)


@pytest.mark.parametrize("kind", KINDS)
def test_functional_call_leaves_no_trace(kind):
    layer = getattr(rg.nn, kind)(3, 5)
    x = torch.randn(4, 2, 3)
    expected = tensors(layer(x))
    zeros = {name: torch.zeros_like(p) for name, p in layer.named_parameters()}
    assert tensors(torch.func.functional_call(layer, zeros, (x,)))[0].abs().max() == 0
    torch.testing.assert_close(tensors(layer(x)), expected)
    copy.deepcopy(layer)


@pytest.mark.parametrize("kind", KINDS)
def test_packing_tools_of_torch_work(kind):
    layer = getattr(rg.nn, kind)(3, 5, batch_first=True)
    lengths = [2, 4, 1]
    x = torch.randn(3, 4, 3)
    packed, state = layer(pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False))
    padded, got = pad_packed_sequence(packed, batch_first=True)
    assert got.tolist() == lengths
    for b, length in enumerate(lengths):  # each sequence as if it were alone
        output, alone = layer(x[b, :length])
        torch.testing.assert_close(padded[b, :length], output)
        torch.testing.assert_close([s[:, b] for s in tensors(state)], tensors(alone))


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_run(kind):
    layer = getattr(rg.nn, kind)(3, 5)
    seen = []
    layer.register_forward_pre_hook(lambda module, args: seen.append("before"))
    layer.register_forward_hook(lambda module, args, output: seen.append("after"))
    layer.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append("backward"))
    tensors(layer(torch.randn(4, 2, 3, requires_grad=True)))[0].sum().backward()
    assert seen == ["before", "after", "backward"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_torch_jit_trace_gives_the_same(kind):
    layer = getattr(rg.nn, kind)(3, 5)
    traced = torch.jit.trace(layer, (torch.randn(4, 2, 3),))
    x = torch.randn(6, 2, 3)
    torch.testing.assert_close(tensors(traced(x)), tensors(layer(x)))
