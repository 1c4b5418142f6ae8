"""The links of the pages. ``python tests/docs/links.py`` lists those to other sites, ``make links`` follows them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pages import HOME

FOLDERS = ("docs", "benchmarks", "examples")
PAGES = [HOME / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES += [page for folder in FOLDERS for page in sorted((HOME / folder).rglob("*.md"))]
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(
    r"(?P<picture>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]"
    r"\(<?(?P<target>[^)\s>]*(?:\([^)\s]*\)[^)\s>]*)?)>?(?: \"[^\"]*\")?\)"
)
BARE = re.compile(r"(?:href|src)=\"(?P<quoted>[^\"]+)\"|(?<![(\w\"/])<?(?P<bare>https?://[^\s<>)\"]+)")


@dataclass(frozen=True)
class Link:
    page: Path
    line: int
    target: str
    picture: bool = False
    text: str = "."

    def __str__(self) -> str:
        return f"{self.page.relative_to(HOME)}, line {self.line}: {self.target}"


def blank(match: re.Match[str]) -> str:
    """The same number of lines, without what they say."""
    return re.sub(r"[^\n]", "·", match[0])


def links(page: Path) -> list[Link]:
    """All links and pictures of a page, those in code left out."""
    text, found = CODE.sub(blank, page.read_text(encoding="utf-8")), []
    for match in LINK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Link(page, line, match["target"], match["picture"] == "!", match["text"]))
        if inner := LINK.match(match["text"]):  # a picture that is a link
            found.append(Link(page, line, inner["target"], True, inner["text"]))
    for match in BARE.finditer(LINK.sub(blank, text)):
        target = match["quoted"] or match["bare"].rstrip(".,;:")
        found.append(Link(page, text.count("\n", 0, match.start()) + 1, target))
    return found


def anchors(page: Path) -> set[str]:
    """The names that a code host and MyST give to the headings of a page."""
    found, seen = set(), Counter[str]()
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#{1,6} (.*?)\s*#*$", text, flags=re.MULTILINE):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def wrong(link: Link) -> str | None:
    """Why a link leads nowhere, or None. Of a link to elsewhere only the form is known here."""
    if link.picture and not link.text.strip():
        return "a picture without words for those who do not see it"
    parts = urlsplit(link.target)
    if parts.scheme in ("http", "https"):
        whole = re.fullmatch(r"(?:[a-z0-9-]+\.)+[a-z]{2,}|localhost", parts.hostname or "")
        return None if whole and not re.search(r"[\s\\^`{}|\[\]]", link.target) else "no address of a page"
    if parts.scheme == "mailto":
        return None if re.fullmatch(r"[^@\s]+@[^@\s]+\.\w+", parts.path) else "no address of a person"
    if parts.scheme or parts.netloc:
        return f"{parts.scheme or parts.netloc} is no way that a page should lead"
    target = (link.page.parent / parts.path).resolve() if parts.path else link.page
    if not target.exists():
        return "no such file"
    if not target.is_relative_to(HOME):
        return "a file outside the repository"
    if target.suffix == ".md" and parts.fragment and parts.fragment not in anchors(target):
        return "no such heading"
    return None


if __name__ == "__main__":
    for one in sorted({(link.target, str(link.page.relative_to(HOME))) for page in PAGES for link in links(page)}):
        if one[0].startswith("http"):
            print(*one)
