"""The site that ``make docs`` built: its search works from a file, and nothing is fetched."""

import os
import re
from pathlib import Path

import pytest

SITE = Path(__file__).parents[2] / "build" / "site"
pytestmark = pytest.mark.skipif("SITE" not in os.environ, reason="`make docs` builds the site and runs this")


def test_no_page_names_a_file_on_the_network():
    for page in SITE.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]*\ssrc=\"(https?:[^\"]*)|<link[^>]*\shref=\"(https?:[^\"]*)", text
        )
        assert not loaded, (page, loaded)


@pytest.mark.parametrize("name", ["README.zh-CN", "tour", "not-learning", "theory", "lab"])
def test_a_chinese_page_has_chinese_menus(name):
    text = (SITE / "docs" / "zh" / f"{name}.html").read_text(encoding="utf-8")
    assert '<html lang="zh-CN"' in text and "本页内容" in text
    assert not re.search(r">\s*(?:Search|On this page|Section Navigation|previous|next|Collapse Sidebar)\s*<", text)


def test_a_prime_stands_beside_its_letter():
    text = (SITE / "docs" / "theory.html").read_text(encoding="utf-8")
    assert "&#x02032;" in text and "<mi>&#x02032;</mi></msup>" not in text


@pytest.mark.browser
@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("truncation", "docs/flow"),
        ("horizon", "docs/reference/rg"),
        ("梯度消失", "docs/zh/theory"),
        ("谱半径", "docs/zh/theory"),
    ],
)
def test_search_finds_pages_without_a_server(browser, query, page):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(f"{(SITE / 'search.html').as_uri()}?q={query}")
    found = "return [...document.querySelectorAll('#search-results li a')].map((one) => one.href)"
    WebDriverWait(browser, 20).until(lambda _: any(f"/{page}." in link for link in browser.execute_script(found)))
