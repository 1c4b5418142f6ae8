"""The pages of the site that are notebooks as well. Without Sphinx, so that tests can make them anywhere."""

from __future__ import annotations

import re

NOTEBOOKS = {"docs/tour", "docs/not-learning", "docs/forecasting"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```\n?", flags=re.DOTALL | re.MULTILINE)


def notebook(text: str) -> dict[str, object]:
    """Make a notebook (nbformat 4) of a page: its Python is code, a plain fence right after it the output."""
    cells: list[dict[str, object]] = []
    end = 0

    def write(words: str) -> None:
        words = re.sub(r"^!\[.*\n", "", words, flags=re.MULTILINE).strip()  # pictures are files of the site
        if words:
            cells.append({"cell_type": "markdown", "id": f"cell-{len(cells)}", "metadata": {}, "source": words})

    for fence in FENCE.finditer(text):
        between, python = text[end : fence.start()], fence[1] == "python"
        if fence[1] == "" and not between.strip() and cells and cells[-1]["cell_type"] == "code":
            cells[-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": fence[2]}]
            end = fence.end()
        elif python:
            write(between)
            code = {
                "cell_type": "code",
                "id": f"cell-{len(cells)}",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
            }
            cells.append(code | {"source": fence[2].rstrip()})
            end = fence.end()
    write(text[end:])
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
