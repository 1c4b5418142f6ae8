"""Every snippet of the pages that teach runs, and prints what the page shows."""

import importlib
import re

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


@pytest.mark.parametrize("name", ["docs/tour", "docs/not-learning", "docs/forecasting"])
def test_a_notebook_has_the_snippets_and_outputs_of_its_page(name, monkeypatch):
    """So that the page that was run above is the notebook that was run."""
    monkeypatch.syspath_prepend(pages.HOME / "docs")
    notebooks = importlib.import_module("notebooks")
    assert name in notebooks.NOTEBOOKS
    text = (pages.HOME / f"{name}.md").read_text(encoding="utf-8")
    code = [cell for cell in notebooks.notebook(text)["cells"] if cell["cell_type"] == "code"]
    python = [snippet for snippet in pages.snippets(text) if snippet.language == "python"]
    assert [cell["source"] for cell in code] == [snippet.source.rstrip() for snippet in python]
    shown = ["".join(output["text"] for output in cell["outputs"]) for cell in code]
    assert shown == [snippet.shown or "" for snippet in python]


PAGE = """
```python
import math

math.sqrt(2), "more"  # 1.41; the root
print("two")  # words are no value
```

```
{}
```
"""


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        (PAGE.format("two"), None),
        (PAGE.format("three"), "three"),
        (PAGE.format("two").replace("1.41", "1.6"), "line 5 states 1.6, but it is 1.414"),
        (PAGE.format("two").replace("math.sqrt(2)", "math.sqrt(-2)"), "math domain error|nonnegative"),
        (PAGE.replace("```\n{}\n```", ""), "does not show"),
    ],
)
def test_a_page_that_is_wrong_is_found(source, wrong, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(source, encoding="utf-8")
    found = []
    try:
        found += pages.run(page, {"__name__": "__page__"})
    except (AssertionError, ValueError) as raised:
        found.append(str(raised))
    assert re.search(wrong, "".join(found)) if wrong else found == []


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
