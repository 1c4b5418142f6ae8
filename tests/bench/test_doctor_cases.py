"""The doctor's benchmark: its cases are what they are said to be, its peers' rules and its scores are right."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from retrograde.doctor import Kind
from retrograde.doctor.findings import FINDINGS

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.doctor import __main__ as command
from benchmarks.doctor import peers, table, training
from benchmarks.doctor.case import LOOPS, Case, Loop, Remedy, Training
from benchmarks.doctor.cases import CASES
from benchmarks.doctor.networks import WIRINGS, Model
from benchmarks.doctor.proof import Treatment, controls, random_remedy, treated
from benchmarks.doctor.run import Outcome, case_key, diagnosed, run
from benchmarks.doctor.scoring import Count, auc, counts, is_alarm, need_is_right
from benchmarks.doctor.tasks import FAMILIES, SKIPPED, Task
from benchmarks.doctor.training import Layer, Snapshot

SICK = [case for case in CASES if not case.healthy]
CASE = Case("tiny", Task("echo", 8, 1), Model("tanh", 4), Training(updates=3, batch=8), frozenset({Kind.CHAOS}),
            remedies=(Remedy("learning rate", training={"lr": 0.01}),), goal=10.0)  # fmt: skip


# The cases
def test_there_are_enough_of_every_kind():
    healthy = [case for case in CASES if case.healthy]
    assert len(CASES) >= 60 and len(healthy) >= len(CASES) / 3
    assert len({case.name for case in CASES}) == len(CASES)
    for half in (healthy, SICK):
        assert {case.model.cell for case in half} == {"tanh", "relu", "gru", "lstm"}
        assert {case.model.layers for case in half} == {1, 2, 3}
    without = {Kind.CLIPPING_HIDES_SPIKES, Kind.MEMORIZED}  # every update has new sequences: none is learned by heart
    assert {kind for case in CASES for kind in case.findings} == set(Kind) - without
    assert 0.4 < sum(case.held_out for case in CASES) / len(CASES) < 0.6
    assert {case.model.wiring for case in CASES} == set(WIRINGS)
    assert {case.task.family for case in CASES} == set(FAMILIES)
    assert {case.training.loop for case in CASES if isinstance(case.training, Loop)} == set(LOOPS) - {""}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_consistent_and_its_network_runs(case):
    severities = {FINDINGS[kind].severity for kind in case.findings}
    assert not case.findings & case.also
    if case.healthy:
        assert severities <= {"note"} and not case.remedies
    else:
        assert severities & {"sick", "unknown"}
        assert case.remedies or case.task.family.startswith("noise")
    (batch,) = training.batches(replace(case, task=replace(case.task, nan=0.0)), seed=0, count=1, sequences=6)
    for cured in map(case.cured, case.remedies):
        assert cured.key != case.key
        assert all(p.isfinite().all() for p in cured.model.build(cured.task, seed=0).parameters())
    network = case.model.build(case.task, seed=0)
    output = network(batch.inputs, batch.lengths)
    losses = case.task.loss(output, batch.targets)
    steps, sequences = batch.inputs.shape[:2][:: -1 if case.task.batch_first else 1]
    one = (1, sequences) if case.model.wiring == "layer axis" else (sequences,)
    assert losses.shape == ((steps, sequences) if case.task.about.each else one)
    assert losses.isfinite().all() == (case.model.wiring != "deviation of one")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_targets_depend_on_the_steps_that_the_lag_says(family):
    """Where two sequences have equal inputs in the last steps, targets differ only if an earlier one matters."""
    task = Task(family, 12 if family != "padded echo" else 24, 3)
    batch = task.draw(4000, torch.Generator().manual_seed(0))
    again = task.draw(4000, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True) if a is not None)
    assert batch.inputs.shape[:2] == (task.steps, 4000)
    if family in ("early echo", "early copy", "forecast"):
        x = batch.inputs.argmax(-1) if family == "early echo" else batch.inputs
        ahead = 1 if family == "forecast" else 3
        assert torch.equal(batch.targets[:-ahead], x[ahead:])
    if family in ("echo", "delayed copy"):
        x = batch.inputs.argmax(-1) if family == "echo" else batch.inputs
        assert torch.equal(batch.targets[3:], x[:-3])
    if family == "padded last":
        ends = batch.lengths - 1 - task.lag
        assert torch.equal(batch.inputs[ends, torch.arange(4000)].argmax(-1), batch.targets)
    if family == "order":
        kinds = batch.inputs.argmax(-1)
        assert ((kinds < 2).sum(0) == 2).all()
        assert (kinds < 2).float().argmax(0).min() == task.steps - 1 - task.about.lag(task)


def test_targets_are_by_hand():
    bits = Task("running parity", 5).draw(50, torch.Generator().manual_seed(3))
    assert torch.equal(bits.targets, (bits.inputs[..., 0] > 0).long().cumsum(0) % 2)
    adding = Task("adding", 10).draw(50, torch.Generator().manual_seed(3))
    assert torch.allclose((adding.inputs[..., 0] * adding.inputs[..., 1]).sum(0) - 1, adding.targets[:, 0])
    late = Task("late sum", 10, 3).draw(50, torch.Generator().manual_seed(3))
    assert torch.allclose(late.inputs[-4:].sum(0) / 2, late.targets)


def test_masks_do_to_padding_what_they_say():
    right, counted, inverted = (
        Task("padded echo", 20, 2, mask=mask).draw(8, torch.Generator().manual_seed(0))
        for mask in ("right", "counted", "inverted")
    )
    padding = torch.arange(20)[:, None] >= right.lengths
    assert (right.targets[padding] == SKIPPED).all() and (right.targets[2:][~padding[2:]] >= 0).all()
    assert (counted.targets[padding] == 0).all() and torch.equal(counted.targets[~padding], right.targets[~padding])
    assert (inverted.targets[padding] == 0).all() and (inverted.targets[~padding] == SKIPPED).all()


def test_chance_is_the_loss_of_the_best_constant():
    assert Task("echo", 20, 3).chance == pytest.approx(math.log(4), rel=1e-2)
    assert Task("late sum", 20, 3, target_scale=10, target_offset=500).chance == pytest.approx(100, rel=0.1)


def test_wirings_do_what_they_say():
    task = Task("echo", 12, 2)
    x = task.draw(5, torch.Generator().manual_seed(0)).inputs
    other = x.clone()
    other[:, :-1] = other[:, :-1].roll(1, 0)  # all sequences but the last

    def changes(wiring, first, second):
        network = Model("gru", 8, wiring=wiring).build(task, seed=0)
        one = network(first)
        return not torch.allclose(one[:, -1], network(second)[:, -1])

    assert not changes("", x, other) and not changes("step by step", x, other)
    assert changes("rolled state", x, other) and changes("leaking state", x, x) and changes("wrong axis", x, other)
    earlier = x.clone()
    earlier[0] = earlier[0].roll(1, -1)
    for wiring, reaches in {"": True, "step by step": True, "each step alone": False, "each window alone": False,
                            "head reads input": False, "input zeroed": False}.items():  # fmt: skip
        network = Model("gru", 8, wiring=wiring).build(task, seed=0)
        assert torch.allclose(network(x)[-1], network(earlier)[-1], atol=1e-7) != reaches, wiring


@pytest.mark.parametrize(("wiring", "first"), [("detached steps", 9), ("detached windows", 0), ("", 0)])
def test_a_detached_state_ends_the_gradient_at_its_step(wiring, first):
    task = Task("echo", 10, 2)
    network = Model("gru", 8, wiring=wiring).build(task, seed=0)
    x = task.draw(5, torch.Generator().manual_seed(0)).inputs.requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[-1].sum(), x)
    assert gradient.flatten(1).any(1).tolist() == [step >= first for step in range(10)]
    assert torch.allclose(network(x), Model("gru", 8).build(task, seed=0)(x), atol=1e-6)


@pytest.mark.parametrize(("wiring", "training", "random"), [
    ("dropout", True, True), ("dropout", False, False), ("dropout always", False, True), ("sampled", False, True),
])  # fmt: skip
def test_outputs_are_random_where_they_are_said_to_be(wiring, training, random):
    task = Task("late sum", 6, 1)
    network = Model("gru", 8, wiring=wiring).build(task, seed=0).train(training)
    x = task.draw(4, torch.Generator().manual_seed(0)).inputs
    assert torch.equal(network(x), network(x)) != random


@pytest.mark.parametrize(
    ("wiring", "low", "high"), [("sigmoid head", 0, 1), ("tanh head", -1, 1), ("relu head", 0, 99)]
)
def test_heads_with_bounds(wiring, low, high):
    task = Task("late sum", 6, 1, scale=50.0)
    network = Model("tanh", 8, start=(("scale V", 50.0),), wiring=wiring).build(task, seed=0)
    outputs = network(task.draw(50, torch.Generator().manual_seed(0)).inputs)
    assert low <= outputs.min() < 0.1 + low and outputs.max() > 0.9 and outputs.max() <= high


def test_parameters_that_an_optimizer_does_not_get():
    in_list = Model("lstm", 8, wiring="layer in a list").build(Task("echo", 8, 1), seed=0)
    assert {name for name, _ in in_list.named_parameters()} == {
        "head.weight",
        "head.bias",
    } and in_list.rnn.hidden_size == 8
    frozen = Model("lstm", 8, wiring="frozen embedding").build(Task("text", 8), seed=0)
    assert {name for name, p in frozen.named_parameters() if not p.requires_grad} == {"embedding.weight"}


def test_step_by_step_is_the_whole_call():
    task = Task("echo", 12, 2)
    x = task.draw(5, torch.Generator().manual_seed(0)).inputs
    whole, steps = (Model("lstm", 8, 2, wiring=w).build(task, seed=0) for w in ("", "step by step"))
    assert torch.allclose(whole(x), steps(x), atol=1e-6)


# The peers' rules
def snapshot(**changes):
    fine = {"update": 0, "loss": 1.0, "names": ["rnn.weight_ih_l0", "rnn.bias_ih_l0", "head.weight"],
            "mean": [1e-3] * 3, "norm": [0.1] * 3, "zeros": [0.0] * 3, "ratio": [1e-3] * 3,
            "layers": [Layer(0.0, 0.0, 0.0, 0.0)]}  # fmt: skip
    return Snapshot(**(fine | changes))


@pytest.mark.parametrize(
    ("tool", "alarm", "fires", "spares"),
    [
        ("AutoTrainer", Kind.VANISHING_HURTS, {"norm": [9e-5, 1, 0.1]}, {"norm": [1.1e-4, 1, 0.2]}),
        ("AutoTrainer", Kind.EXPLODING, {"norm": [7.1, 1, 0.1]}, {"norm": [6.9, 1, 0.1]}),
        ("AutoTrainer", Kind.DEAD_RELU, {"zeros": [0.7, 0, 0]}, {"zeros": [0.69, 1, 0]}),
        ("SageMaker Debugger", Kind.VANISHING_HURTS, {"mean": [9e-8, 1, 1]}, {"mean": [2e-7, 0, 1]}),
        ("SageMaker Debugger", Kind.NOT_FINITE, {"loss": math.nan}, {"loss": 1e9}),
        ("SageMaker Debugger", Kind.DEAD_RELU, {"layers": [Layer(0, 0, 0.51, 0)]}, {"layers": [Layer(0, 0, 0.5, 0)]}),
        ("SageMaker Debugger", Kind.SATURATION, {"layers": [Layer(0, 0.51, 0, 0)]}, {"layers": [Layer(1, 0.5, 0, 0)]}),
        ("DeepDiagnosis", Kind.SATURATION, {"layers": [Layer(0.51, 0, 0, 0)]}, {"layers": [Layer(0.5, 0, 0, 0)]}),
        ("DeepDiagnosis", Kind.LEARNING_RATE_TOO_HIGH, {"ratio": [0.11, 0, 0]}, {"ratio": [0.09, 0.2, 1e-3]}),
        ("DeepDiagnosis", "updates too small", {"ratio": [9e-6, 1, 1e-3]}, {"ratio": [1.1e-5, 0, 1e-3]}),
        ("DLCheck", Kind.EXPLODING, {"mean": [2e6, 1, 1]}, {"mean": [9e5, 1, 1]}),
        ("DLCheck", Kind.DEAD_RELU, {"layers": [Layer(0, 0, 0, 0.96)]}, {"layers": [Layer(0, 0, 0, 0.94)]}),
    ],
)
def test_the_rules_of_peers_have_their_published_thresholds(tool, alarm, fires, spares):
    assert peers.alarms(tool, [snapshot()]) == set()
    assert alarm in peers.alarms(tool, [snapshot(**fires)])
    assert alarm not in peers.alarms(tool, [snapshot(**spares)])


def test_a_peer_needs_most_updates_but_one_nan():
    dead = snapshot(mean=[1e-9] * 3)
    assert peers.alarms("DLCheck", [dead, snapshot()]) == set()
    assert peers.alarms("DLCheck", [dead, dead, snapshot()]) == {Kind.VANISHING_HURTS}
    assert peers.alarms("DLCheck", [snapshot(), snapshot(), snapshot(loss=math.inf)]) == {Kind.NOT_FINITE}


@pytest.mark.parametrize("cell", ["tanh", "relu", "gru", "lstm"])
def test_probes_see_what_layers_compute(cell):
    """Against an unrolled twin of two layers."""
    case = Case("x", Task("echo", 6, 1), Model(cell, 5, 2), Training(updates=2, batch=3))
    (first, _) = training.train(case).snapshots
    network = case.model.build(case.task, 0)
    (batch,) = training.batches(case, 1000, 1)
    loss = case.task.mean_loss(network(batch.inputs), batch.targets)
    loss.backward()
    assert first.loss == pytest.approx(loss.item(), rel=1e-5)
    norms = {name: p.grad.norm().item() for name, p in network.named_parameters()}
    assert dict(zip(first.names, first.norm, strict=True)) == pytest.approx(norms, rel=1e-4)
    assert len(first.layers) == 2 and len(first.ratio) == len(first.names)
    if cell == "relu":
        lower = torch.nn.RNN(4, 5, nonlinearity="relu")
        lower.load_state_dict({n: p for n, p in network.rnn.state_dict().items() if n.endswith("_l0")})
        assert first.layers[0].zeros == pytest.approx((lower(batch.inputs)[0] == 0).float().mean().item())
        assert first.layers[1].zeros == pytest.approx((network.rnn(batch.inputs)[0] == 0).float().mean().item())


# Training
def test_a_truncated_training_updates_once_a_window():
    case = Case("x", Task("echo", 8, 1), Model("tanh", 4), Training(updates=3, batch=4, bptt=4))
    trained = training.train(case)
    assert len(trained.record.gradient_norms) == 6 and trained.record.bptt == 4
    assert type(trained.network.rnn) is torch.nn.RNN


@pytest.mark.parametrize("loop", LOOPS[1:])
def test_loops_do_to_the_weights_what_they_say(loop):
    def trained(loop, updates=4):
        case = Case("x", Task("echo", 8, 1), Model("tanh", 4), Loop(0.01, updates, "sgd", clip=None, loop=loop))
        found = training.train(case)
        pairs = zip(found.initial.parameters(), found.network.parameters(), strict=True)
        return [(after - before).detach() for before, after in pairs], found.record.gradient_norms

    (moved, norms), (plain, usual) = trained(loop), trained("")
    assert len(norms) == 4 and (norms[0] == usual[0]) == (loop != "targets moved")
    if loop == "head only":
        assert not any(step.any() for step in moved[:-2]) and all(step.any() for step in moved[-2:])
    if loop == "no step":
        assert not any(step.any() for step in moved)
    if loop == "never zeroed":
        assert norms[3] > 2 * usual[3]
    if loop == "targets moved":
        assert not any(torch.equal(a, b) for a, b in zip(moved, plain, strict=True))
    if loop == "two batches a step":
        first, _ = trained("", 1)
        both, _ = trained(loop, 2)
        assert not any(step.any() for step in trained(loop, 1)[0])
        assert norms[1] > 1.5 * usual[1] and norms[2] < 1.5 * usual[2]
        assert torch.cat([s.flatten() for s in both]).norm() > 1.5 * torch.cat([s.flatten() for s in first]).norm()


def test_a_training_with_nan_ends():
    case = Case("x", Task("echo", 8, 1, nan=1.0), Model("gru", 4), Training(updates=50))
    assert training.train(case).record.diverged


def test_the_doctor_gets_the_start_where_the_case_says_so(monkeypatch):
    given = []
    monkeypatch.setattr("retrograde.diagnose", lambda *_, untrained, record: given.append(untrained))
    for start_given in (False, True):
        diagnosed(CASE.model.build(CASE.task, 0), replace(CASE, start_given=start_given), None, CASE)
    assert given == [None, CASE]


# Prescriptions
def test_a_prescription_changes_what_it_says():
    case = Case("x", Task("late sum", 6, 1, scale=10.0), Model("tanh", 4), Training(bptt=5))
    how = Treatment({"lr": 0.5, "clip_norm": 2.0}, "lr = 0.5").on_training(case).training
    assert (how.lr, how.clip, how.bptt) == (0.5, 2.0, 5)
    network = case.model.build(case.task, 0)
    start = Treatment({"init": "identity"}, "rg.nn.initialize(model.rnn, recurrent='identity')")
    batch = case.task.draw(8, torch.Generator().manual_seed(0))
    assert start.on_model(network, batch) is None and torch.equal(network.rnn.weight_hh_l0, torch.eye(4))
    assert start.on_training(case) == case
    scaled = Treatment({}, "x = (x - 1) / 10")
    assert torch.allclose(scaled.on_batch(batch).inputs, (batch.inputs - 1) / 10)
    assert torch.equal(start.on_batch(batch).inputs, batch.inputs)


def test_lines_find_a_batch_and_those_for_code_of_the_user_are_not_tried():
    case = Case("x", Task("padded echo", 12, 1), Model("tanh", 4))
    (batch,) = training.batches(case, 0, 1)
    network = case.model.build(case.task, 0)
    before = network.rnn.weight_hh_l0.clone()
    flossing = Treatment({"floss": 2}, "rg.nn.floss(model, *inputs, exponents=2)")
    assert flossing.on_model(network, batch) is None and not torch.equal(network.rnn.weight_hh_l0, before)
    assert Treatment({}, "# where the layer is called\nx = pack(x, lengths)").by_hand and not flossing.by_hand


@pytest.mark.parametrize("family", ["late sum", "padded last"])
def test_truncation_with_one_target_per_sequence_keeps_the_outputs_and_cuts_the_gradient(family):
    case = Case("x", Task(family, 9, 2), Model("lstm", 4), Training(updates=2, batch=4, bptt=3))
    (batch,) = training.batches(case, 0, 1)
    network = case.model.build(case.task, 0)
    output = network.truncated(batch.inputs, 3, batch.lengths)
    assert torch.allclose(output, network(batch.inputs, batch.lengths), atol=1e-6)
    x = batch.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network.truncated(x, 3, batch.lengths)[0].sum(), x)
    last = 8 if batch.lengths is None else int(batch.lengths[0]) - 1
    assert gradient[last].any() and not gradient[: last // 3 * 3].any()
    assert training.train(case).record.updates == 2


def test_a_regularizer_is_called_after_every_backward_pass():
    lines = (
        "from retrograde.training.regularize import VanishingGradientRegularizer\n"
        "regularizer = VanishingGradientRegularizer(model, alpha=1.0)\n"
        "# in the training loop, after loss.backward() and before clipping:\nregularizer.add_gradients()"
    )
    treatment = Treatment({"omega": 1.0}, lines)
    case = Case("x", Task("echo", 6, 1), Model("tanh", 4), Training(updates=2, batch=3))
    plain, treated = training.train(case), training.train(case, treatment=treatment)
    assert not torch.equal(plain.network.rnn.weight_hh_l0, treated.network.rnn.weight_hh_l0)


def test_arms_are_compared_from_the_same_start(monkeypatch):
    monkeypatch.setattr("benchmarks.doctor.proof.UPDATES", 3)
    case = replace(CASE, training=Training(updates=3, batch=8))
    nothing = controls(case, 0) | treated(case, Treatment({}, ""), 0)
    assert set(nothing) == {"prescription", "untreated", "placebo", "random"}
    assert nothing["prescription"] == nothing["untreated"] != nothing["placebo"]


def test_random_remedies_differ_and_can_be_built():
    for case in SICK[:20]:
        drawn = [case.cured(random_remedy(case, seed)) for seed in range(6)]
        assert len({one.key for one in drawn}) > 1 and all(one.key != case.key for one in drawn)
        for one in drawn:
            one.model.build(one.task, 0)


# Scores
def test_counts_by_finding():
    chaos, none = {"chaos"}, set()
    found = counts([(chaos, chaos, none), (chaos, none, none), (chaos, none, chaos), (none, chaos, none)])
    assert found[Kind.CHAOS] == Count(1, 1, 1)
    assert (found[Kind.CHAOS].precision, found[Kind.CHAOS].recall) == (0.5, 0.5)
    assert found[Kind.TRUNCATION].precision is None and found[Kind.TRUNCATION].recall is None


def test_auc_by_hand():
    assert auc([0.9, 0.5, 0.5, 0.1], [True, True, False, False]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert auc([1.0, 0.0], [True, True]) is None


def test_only_sick_findings_are_alarms():
    assert is_alarm({"chaos"}) and is_alarm({"updates too small"})
    assert not is_alarm({"vanishing_harmless", "no_first_order_signal"})


@pytest.mark.parametrize(
    ("need", "lag", "right"),
    [(20, 30, True), (19, 30, False), (45, 30, True), (46, 30, False), (1, 0, True), (None, 3, False)],
)
def test_need_within_a_factor(need, lag, right):
    assert need_is_right(need, lag) is right


# Runs
def test_a_run_resumes_and_only_examines_again_when_rules_change(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.doctor.run.EXAMINED", 2)
    first = run(CASE, 0, None, tmp_path, "rules 1")
    assert first.error == "" and first.cured_by == "learning rate" and set(first.peers) == set(peers.RULES)
    (kept,) = tmp_path.glob("*.pt")
    monkeypatch.setattr("benchmarks.doctor.run.train", None)  # nothing is trained again
    assert run(CASE, 0, first, tmp_path, "rules 1") == first
    again = run(CASE, 0, replace(first, found=["chaos"]), tmp_path, "rules 2")
    assert again.rules == "rules 2" and again.found != ["chaos"] and kept.exists()
    assert case_key(replace(CASE, goal=0.1)) != case_key(CASE)


def test_a_case_is_only_sick_if_it_stays_so_without_its_remedy(tmp_path, monkeypatch):
    """A training that was ended early is not sick: given as many updates as the remedy had, it comes to its goal."""
    monkeypatch.setattr("benchmarks.doctor.run.EXAMINED", 2)
    case = replace(CASE, remedies=(Remedy("longer", training={"updates": 4}),), goal=1e6)
    longer = run(case, 0, None, tmp_path, "rules")
    assert longer.cured_by == "longer" and longer.untreated_share is not None
    assert not table._as_said(case, replace(longer, solved=False))
    assert table._as_said(replace(case, goal=1e-9), replace(longer, solved=False))


def test_the_command_writes_a_line_per_run_and_the_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.doctor.run.EXAMINED", 2)
    monkeypatch.setattr(command, "CASES", [CASE])
    monkeypatch.setattr(command, "HERE", tmp_path)
    readme, results = tmp_path / "README.md", tmp_path / "results.jsonl"
    readme.write_text(f"before\n{table.MARKS[0]}\nold\n{table.MARKS[1]}\nafter\n")
    arguments = ["--results", str(results), "--cache", str(tmp_path), "--misses"]
    command.main(arguments)
    whole = results.read_text()
    results.write_text(whole + whole[:40])  # cut short
    command.main([*arguments, "--write"])
    assert results.read_text() == whole and Outcome(**json.loads(whole)).name == "tiny"
    text = readme.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text and "| doctor |" in text
    assert "AutoTrainer" in capsys.readouterr().out
