"""What Sphinx does not do by itself for this site: menus, the laboratory, mathematics, reference, Chinese search.

Pages are plain Markdown that a code host shows well. The site adds to them:

- a list of links of a page in `MENUS` becomes its menu;
- ``<!-- site: HTML -->`` is shown as that HTML, such as the frame with the laboratory;
- the pages in `NOTEBOOKS` are notebooks as well;
- links to ``lab.html`` keep their fragment;
- every module in the table of ``docs/reference.md`` has a page made of its docstrings.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
from importlib import import_module
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from notebooks import NOTEBOOKS, notebook
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish
from sphinx.util import logging

import retrograde

MENUS = {
    "docs/index",
    "docs/howto",
    "docs/tools/index",
    "docs/reference",
    "docs/design",
    "docs/zh/README.zh-CN",
    "benchmarks/README",
    "examples/papers/README",
}
REFERENCE = "docs/reference"
LABORATORY = Path("src/retrograde/laboratory/lab.html")

CHINESE = {  # the words of the theme on Chinese pages
    **{"Search": "搜索", "On this page": "本页内容", "Section Navigation": "中文页面", "Home": "首页"},
    **{"previous": "上一页", "next": "下一页", "previous page": "上一页", "next page": "下一页"},
    **{"Collapse Sidebar": "收起侧栏", "Expand Sidebar": "展开侧栏", "Color mode": "颜色"},
    **{"Light": "浅色", "Dark": "深色", "System Settings": "跟随系统", "Skip to main content": "跳到正文"},
}

log = logging.getLogger(__name__)


def add_to_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add to the Markdown of a page what only the site shows."""
    text = re.sub(r"<!-- site: (.*?) -->", r"\1", source[0], flags=re.DOTALL)
    text = re.sub(r"\[([^\]]+)\]\(([^)\s]*lab\.html[^)\s]*)\)", r'<a href="\2">\1</a>', text)
    if docname in NOTEBOOKS:
        link = f'<a href="{Path(docname).name}.ipynb" download>This page as a notebook</a>'
        text = re.sub(r"\A(# .*\n)", rf"\1\n{link}\n", text)
    if docname == REFERENCE:
        text = re.sub(r"^\| `([\w.]+)` \|", r"| [`\1`](reference/\1.rst) |", text, flags=re.MULTILINE)
    if docname in MENUS:
        linked = re.findall(r"^(?:[-*]|\|) \[([^\]]+)\]\(([^)#:]+\.(?:md|rst))\)", text, flags=re.MULTILINE)
        entries = "\n".join(f"{title.strip('`')} <{page}>" for title, page in linked)
        text += f"\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"
    source[0] = text


def write_reference(app: Sphinx, config: object) -> None:
    """Write a page for each module in the table of the reference: what its docstrings say of its public names."""
    home = Path(app.srcdir)
    folder = home / REFERENCE
    folder.mkdir(exist_ok=True)
    text = (home / f"{REFERENCE}.md").read_text(encoding="utf-8")
    modules = re.findall(r"^\| `([\w.]+)` \|", text, flags=re.MULTILINE)
    if missing := {f"rg.{name}" for name in retrograde._PACKAGES} - set(modules):
        log.warning("%s.md does not list %s", REFERENCE, ", ".join(sorted(missing)))
    for path in folder.glob("*.rst"):
        path.unlink()
    for module in modules:
        (folder / f"{module}.rst").write_text(reference_page(module), encoding="utf-8")


def reference_page(short: str) -> str:
    """The reStructuredText of a module's page; ``short`` is its name with ``rg`` in place of ``retrograde``."""
    name = re.sub(r"^rg\b", "retrograde", short)
    module = import_module(name)
    public = [one for one in getattr(module, "__all__", ()) if not one.startswith("__")]
    names = [one for one in public if not inspect.ismodule(getattr(module, one))]
    parts = [f"{short}\n{'=' * len(short)}", f".. automodule:: {name}\n   :no-members:", f".. currentmodule:: {name}"]
    if names:
        parts.append(".. autosummary::\n   :nosignatures:\n\n" + "\n".join(f"   {one}" for one in names))
    for one in names:
        value = getattr(module, one)
        if name != "retrograde" and getattr(retrograde, one, None) is value and one in retrograde.__all__:
            parts.append(
                f".. py:data:: {one}\n   :no-index:\n\n   Documented as :py:obj:`rg.{one} <retrograde.{one}>`."
            )
        elif inspect.isclass(value):
            others = ", ".join(base.__name__ for base in value.__mro__ if not base.__module__.startswith("retrograde"))
            parts.append(f".. autoclass:: {one}\n   :members:\n   :inherited-members: {others}\n   :show-inheritance:")
        else:
            parts.append(f".. autofunction:: {one}" if callable(value) else f".. autodata:: {one}\n   :no-value:")
    return "\n\n".join(parts) + "\n"


def leave_out(app: Sphinx, what: str, name: str, value: object, skip: bool, options: object) -> bool | None:
    """Leave out the methods that scikit-learn adds to every estimator."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def shorten(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str | None, returns: str | None
):
    """Name types in a signature by their last part: ``list[Signal]``."""
    return tuple(
        text and re.sub(r"~?\b(?:[a-zA-Z_]\w*\.)+(?=[A-Z])", "", text).replace("<factory>", "...")
        for text in (signature, returns)
    )


def copy_laboratory(app: Sphinx, failed: Exception | None) -> None:
    """Put the laboratory where the pages link to, and a page at the top that leads to the first."""
    target = Path(app.outdir) / LABORATORY
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(app.srcdir) / LABORATORY, target)
    first = f"{app.config.root_doc}.html"
    (Path(app.outdir) / "index.html").write_text(
        f'<!doctype html><title>retrograde</title><meta http-equiv="refresh" content="0; url={first}">'
        f'<a href="{first}">retrograde</a>',
        encoding="utf-8",
    )


def write_notebooks(app: Sphinx, failed: Exception | None) -> None:
    """Write the pages in `NOTEBOOKS` as notebooks, with the outputs that the tests compare."""
    for docname in NOTEBOOKS:
        text = (Path(app.srcdir) / f"{docname}.md").read_text(encoding="utf-8")
        path = Path(app.outdir) / f"{docname}.ipynb"
        path.write_text(json.dumps(notebook(text), indent=1, ensure_ascii=False), encoding="utf-8")


def in_its_language(app: Sphinx, page: str, template: str, context: dict[str, object], tree: object) -> None:
    """Give Chinese pages Chinese menus, and name their language: it chooses fonts, and voices of screen readers."""
    if page.startswith("docs/zh/"):
        context["language"] = "zh-CN"
        context["_"] = lambda words: CHINESE.get(words, words)
        if page == "docs/zh/README.zh-CN":
            context["prev"] = None  # an English page
        body = str(context.get("body", ""))  # no line begins with the mark after a formula
        context["body"] = re.sub(
            r"(<math (?:(?!</math>).)*</math>[，。；：、）”？！]+)", r'<span class="together">\1</span>', body
        )


def mathml(source: str, **options: str) -> str:
    """MathML of a formula; the prime of f′ next to the letter and not over it, and room around a logarithm."""
    text = re.sub(
        r"<msup>(<mi>\w</mi>)<mi>&#x02032;</mi></msup>",
        r'<mrow>\1<mo lspace="0.1em" rspace="0">&#x02032;</mo></mrow>',
        convert(source, **options),
    )
    return text.replace("<mi>log</mi>", '<mrow><mspace width="0.17em"/><mi>log</mi><mspace width="0.17em"/></mrow>')


def visit_math(self: object, node: nodes.math) -> None:
    """Write an inline formula as MathML."""
    self.body.append(mathml(node.astext()))  # type: ignore[attr-defined]
    raise nodes.SkipNode


def visit_math_block(self: object, node: nodes.math_block) -> None:
    """Write a displayed formula as MathML."""
    formula = mathml(node.astext(), display="block")
    self.body.append(f'<div class="formula" tabindex="0">{formula}</div>')  # type: ignore[attr-defined]
    raise nodes.SkipNode


class EnglishAndChinese(SearchEnglish):
    """English words and, as Chinese is written without spaces, every two neighboring Chinese characters."""

    js_splitter_code = """
var splitQuery = (query) =>
  query.split(/[^\\p{Letter}\\p{Number}_]+/gu)
    .flatMap((word) => word.match(/[\\u4e00-\\u9fff]+|[^\\u4e00-\\u9fff]+/g) || [])
    .flatMap((word) => /[\\u4e00-\\u9fff]/.test(word) && word.length > 1
      ? Array.from({ length: word.length - 1 }, (_, i) => word.slice(i, i + 2)) : [word]);
"""

    def split(self, input: str) -> list[str]:
        """Split a text into what is looked up."""
        found = []
        for word in re.findall(r"[\u4e00-\u9fff]+|[^\W\u4e00-\u9fff]+", input):
            pairs = [word[i : i + 2] for i in range(len(word) - 1)]
            found += pairs if pairs and "\u4e00" <= word[0] <= "\u9fff" else [word]
        return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the parts to Sphinx."""
    app.connect("config-inited", write_reference)
    app.connect("source-read", add_to_page)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("autodoc-process-signature", shorten)
    app.connect("html-page-context", in_its_language)
    app.connect("build-finished", copy_laboratory)
    app.connect("build-finished", write_notebooks)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.add_search_language(EnglishAndChinese)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
