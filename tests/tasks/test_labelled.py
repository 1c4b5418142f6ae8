"""What labels are taken for."""

import pytest

from retrograde.errors import DataError
from retrograde.options import Options
from retrograde.tasks.labelled import LabelledTask


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
