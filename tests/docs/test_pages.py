"""Every snippet of the pages that teach runs, and prints what the page shows."""

import matplotlib
import pages
import pytest

matplotlib.use("Agg")


@pytest.mark.parametrize(
    "name", ["README.md", "docs/tour.md", "docs/not-learning.md", "docs/theory.md", "docs/forecasting.md"]
)
def test_a_page_prints_what_it_shows(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pages.run(pages.HOME / name, {"__name__": "__page__"}) == []


SHOWN = "loss 0.51\n▁▂▃ by lag\n…\nend in 3 s\n"


@pytest.mark.parametrize(
    ("real", "same"),
    [
        ("loss 0.52\n▃▂▃ by lag\nend in 9 s\n", True),
        ("loss 0.51\n▁▂▃ by lag\nmore\nand more 3\nend in 3 s\n", True),
        ("loss 0.61\n▁▂▃ by lag\nend in 3 s\n", False),
        ("loss 0.51\n▁▂▃ by step\nend in 3 s\n", False),
        ("loss 0.51\n▁▂▃ by lag\nend in 3 s\nmore\n", False),
        ("loss nan\n▁▂▃ by lag\nend in 3 s\n", False),
    ],
)
def test_what_counts_as_the_same_output(real, same):
    assert (pages.difference(SHOWN, real) is None) is same
