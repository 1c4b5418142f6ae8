"""The Chinese pages say what the English ones say now, with the same snippets."""

import pytest
import translations
from pages import HOME

CHINESE = sorted((HOME / "docs" / "zh").glob("*.md"))


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_a_translation_is_of_the_english_text_as_it_is(page):
    text = page.read_text(encoding="utf-8")
    stamp = translations.STAMP.match(text)
    assert stamp, f"{page} does not say what it translates"
    english = HOME / stamp[1]
    now = translations.digits(english)
    command = f"python tests/docs/translations.py {page.relative_to(HOME)}"
    assert stamp[2] == now, f"{stamp[1]} has changed: change its translation {page.name} likewise, then run: {command}"
    assert translations.fences(text) == translations.fences(english.read_text(encoding="utf-8")), command


def test_what_is_promised_in_chinese_is_there():
    translated = {translations.STAMP.match(page.read_text(encoding="utf-8"))[1] for page in CHINESE}
    assert translated >= {"README.md", "docs/tour.md", "docs/theory.md", "docs/lab.md", "docs/not-learning.md"}


def test_snippets_are_copied_and_the_english_text_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(translations, "HOME", tmp_path)
    english, chinese = tmp_path / "a.md", tmp_path / "zh.md"
    english.write_text("# A\n\n```python\nprint(2)\n```\n", encoding="utf-8")
    chinese.write_text("<!-- Translation of a.md, 0 -->\n\n# 甲\n\n```python\nprint(1)\n```\n", encoding="utf-8")
    translations.bring_up_to_date(chinese)
    text = chinese.read_text(encoding="utf-8")
    assert text == f"<!-- Translation of a.md, {translations.digits(english)} -->\n\n# 甲\n\n```python\nprint(2)\n```\n"
