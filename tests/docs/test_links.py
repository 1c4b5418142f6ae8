"""Links between pages lead to a file and a heading that exist; those to elsewhere have the form of an address."""

import links
import pytest


def test_no_link_of_a_page_leads_nowhere():
    found = [link for page in links.PAGES for link in links.links(page)]
    assert len(found) > 150
    assert [f"{link}: {why}" for link in found if (why := links.wrong(link))] == []


PAGE = """# A page, and `more`

[to](other.md) [here](#a-page-and-more) ![A picture](picture.png) <https://example.org/a_(b)> `[not](a-link.md)`

## A page, and `more`

[there](other.md#the-other-page) [second](#a-page-and-more-1) [![sign](picture.png)](https://example.org)
"""


@pytest.mark.parametrize(
    ("right", "broken", "why"),
    [
        ("other.md)", "another.md)", "no such file"),
        ("#a-page-and-more)", "#a-page)", "no such heading"),
        ("#a-page-and-more-1", "#a-page-and-more-2", "no such heading"),
        ("#the-other-page", "#other-page", "no such heading"),
        ("![A picture]", "![]", "without words"),
        ("(picture.png) <", "(paint.png) <", "no such file"),
        ("https://example.org/a", "https://example/a", "no address of a page"),
        ("https://example.org)", "htps://example.org)", "htps"),
    ],
)
def test_a_broken_link_is_found(right, broken, why, tmp_path, monkeypatch):
    monkeypatch.setattr(links, "HOME", tmp_path)
    (tmp_path / "other.md").write_text("# The other page\n", encoding="utf-8")
    (tmp_path / "picture.png").touch()
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    assert [links.wrong(link) for link in links.links(page)] == [None] * 8
    assert PAGE.count(right) == 1
    page.write_text(PAGE.replace(right, broken), encoding="utf-8")
    (found,) = [wrong for link in links.links(page) if (wrong := links.wrong(link))]
    assert why in found
