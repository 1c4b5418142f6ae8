"""What labels are taken for."""

import json

import pytest
import torch

from retrograde.errors import DataError, OptionError
from retrograde.options import Options
from retrograde.tasks.labelled import LabelledBatch, LabelledTask


def notes_on(tmp_path, labels):
    path = tmp_path / "a.csv"
    path.write_text("x1,x2,target\n" + "".join(f"{n % 7},{n % 5},{one}\n" for n, one in enumerate(labels)))
    return LabelledTask(str(path), Options.of({"task": "classify", "label": "target"})).notes


def test_numbers_to_predict_are_no_classes_unsaid(tmp_path):
    amounts = "column 'target' has 40 different numbers in 400, such as 0.5: they look like amounts to predict, not"
    with pytest.raises(DataError, match=amounts):
        notes_on(tmp_path, [n % 40 + 0.5 for n in range(400)])
    (said,) = (note for note in notes_on(tmp_path, [n % 100 * 3 for n in range(400)]) if "numbers" in note)
    assert said.startswith("column 'target' has 100 different numbers in 400: each is taken for a class.")
    for names in ([n % 10 for n in range(400)], [n % 100 for n in range(400)], [f"c{n % 100 * 3}" for n in range(400)]):
        assert not any("different numbers" in note for note in notes_on(tmp_path, names))


def test_more_than_twenty_labels_that_half_of_the_rows_lack_are_names(tmp_path):
    notes_on(tmp_path, [f"c{n % 20}" for n in range(30)])
    notes_on(tmp_path, [f"c{n % 25}" for n in range(50)])
    for kinds, rows in ((21, 30), (26, 50)):
        with pytest.raises(DataError, match=f"{kinds} different labels in {rows}: they look like numbers or names"):
            notes_on(tmp_path, [f"c{n % kinds}" for n in range(rows)])


def test_a_probe_has_sequences_of_medium_length_or_as_near_to_it_as_its_steps_allow(tmp_path):
    words = [f"{' '.join(['w'] * n)},{'ab'[n % 2]}" for n in range(1, 81)]
    (tmp_path / "a.csv").write_text("\n".join(["text,target", *words, ""]))
    task = LabelledTask(str(tmp_path / "a.csv"), Options.of({"task": "classify", "label": "target", "tokens": "word"}))
    every = sorted(task.training[0].lengths.tolist())
    for steps, middle in ((None, len(every) // 2), (20, sum(n <= 20 for n in every))):
        lengths = task.examples(6, steps).inputs[1]
        assert lengths.tolist() == every[middle - 3 : middle + 3][::-1]


def test_a_list_that_is_no_table_is_refused_by_its_row(tmp_path):
    rows = [{"x": [[1, 2], [3, 4]], "label": "ab"[n % 2]} for n in range(30)]
    rows[0]["x"] = [[1, 2], [3]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="row 1, column 'x': it must be a list of numbers"):
        LabelledTask(str(tmp_path / "a.jsonl"), Options.of({"task": "classify", "label": "label"}))


def test_a_mixture_has_the_loss_of_both_labels_and_its_parts_add_up(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,t,x,size,label\n" + "".join(
        f"{n},{t},{n * t % 7},{'SL'[n % 2]},{'abc'[n % 3]}\n" for n in range(30) for t in range(4)
    ))  # fmt: skip
    given = {"task": "classify", "group": "id", "features": "x,size", "class_weights": "balanced", "mixup": 0.4}
    task = LabelledTask(str(path), Options.of(given))
    batch, plain = task.batch(3), task.reader.batch(task.training, task.shuffle(3), task.class_weights)
    assert isinstance(batch, LabelledBatch) and batch.others is not None and torch.equal(batch.targets, plain.targets)
    assert torch.equal(batch.inputs, task.batch(3).inputs) and not torch.equal(batch.inputs, plain.inputs)
    assert torch.equal(batch.inputs[..., 1], plain.inputs[..., 1])  # categories stay
    rest = (batch.inputs - batch.share * plain.inputs)[..., 0] / (1 - batch.share)
    partners = [n for n in range(batch.size) if torch.allclose(rest[:, 0], plain.inputs[:, n, 0], atol=1e-5)]
    assert batch.others[0] in plain.targets[partners]

    torch.manual_seed(0)
    network = task.model().eval()
    logs = network(batch.inputs, batch.lengths).log_softmax(-1)
    soft = batch.share * torch.eye(3)[batch.targets] + (1 - batch.share) * torch.eye(3)[batch.others]
    expected = -(soft * logs * task.class_weights).sum() / (soft * task.class_weights).sum()
    torch.testing.assert_close(task.loss(network, batch, None)[0], expected)
    parts = [batch.part(rank, 2) for rank in range(2)]
    total = sum(task.loss(network, part, None)[0] * part.weight for part in parts)
    torch.testing.assert_close(total / batch.weight, expected)


def test_texts_are_not_mixed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "a b,x\nc d,y\n" * 20)
    with pytest.raises(OptionError, match="--mixup mixes sequences of numbers, but these are texts; leave it out"):
        LabelledTask(str(path), Options.of({"task": "classify", "mixup": 0.4}))


def test_a_label_that_does_not_occur_in_training_names_ten_that_do(tmp_path):
    rows = tmp_path / "a.csv"
    rows.write_text("x1,x2,label\n" + "".join(f"{n % 7},{n % 5},c{n % 11:02}\n" for n in range(110)))
    new = tmp_path / "new.csv"
    new.write_text("x1,x2,label\n1,2,c00\n1,2,other\n")
    known = ", ".join(f"'c{n:02}'" for n in range(10))
    words = f"row 2: label 'other' does not occur in the training data, which has {known}, …"
    with pytest.raises(DataError, match=words):
        LabelledTask(str(rows), Options.of({"task": "classify", "label": "label", "validation": str(new)}))


def test_the_cost_of_scores_is_the_share_that_is_wrong_and_then_the_loss(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x1,x2,label\n" + "".join(f"{n % 7},{n % 5},{'ab'[n % 2]}\n" for n in range(100)))
    task = LabelledTask(str(path), Options.of({"task": "classify", "label": "label"}))
    right = [task.cost({"loss": loss, "accuracy": 0.8}) for loss in (0.1, 0.9, float("inf"))]
    assert right == sorted(set(right)) and right[0] > 0.2 and right[-1] < task.cost({"loss": 0.1, "accuracy": 0.7})
    assert task.cost({"loss": 0.5}) == 0.5  # where labels were not judged
