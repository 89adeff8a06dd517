"""The site that `scripts/docs` builds: it needs no network, and nothing is missing from it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
DECISIONS = sorted(path.name for path in (DOCS / "adr").glob("0*.md"))
STATUS = re.compile(r"(Proposed|Accepted|Amended by \d+|Replaced by \d+)\.")


class Loaded(HTMLParser):
    """What a browser loads for a page: scripts, styles, pictures, frames."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
        found = dict(attrs).get(names.get(tag, ""))
        if found:
            self.addresses.append(found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `scripts/docs` builds it; a broken link is an error."""
    folder = tmp_path_factory.mktemp("site")
    options = ["-c", str(ROOT / "scripts/sphinx"), "-W", "--keep-going", "-q"]
    argv = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_site_page_loads_only_files_of_the_site(site: Path, page: str) -> None:
    path = site / page.replace(".md", ".html")
    loaded = Loaded(path.read_text()).addresses
    assert any(address.partition("?")[0].endswith(".js") for address in loaded)
    missing = [each for each in loaded if not (path.parent / each.partition("?")[0]).is_file()]
    assert not missing


def test_site_styles_load_nothing_from_the_network(site: Path) -> None:
    styles = [
        path
        for path in site.rglob("*.css")
        if re.search(r"@import|url\(\s*['\"]?(https?:|//)", path.read_text())
    ]
    assert not styles


def test_site_search_is_a_script_that_knows_every_page(site: Path) -> None:
    index = (site / "searchindex.js").read_text()  # a script works from file://, a fetched JSON would not
    assert index.startswith("Search.setIndex(")
    names = re.search(r'"docnames":\s*\[(.*?)\]', index) or re.search(r"docnames:\[(.*?)\]", index)
    assert names
    assert sorted(re.findall(r'"([^"]+)"', names[1])) == sorted(page.removesuffix(".md") for page in PAGES)


def test_index_describes_every_page_but_single_decisions() -> None:
    listed = re.findall(r"\]\(([\w./-]+\.md)\)", (DOCS / "index.md").read_text())
    wanted = {page for page in PAGES if not page.startswith("adr/0")} - {"index.md"}
    assert set(listed) == wanted


@pytest.mark.parametrize("name", DECISIONS)
def test_decision_has_a_status_and_the_index_says_the_same(name: str) -> None:
    title, _, status, *_ = (DOCS / "adr" / name).read_text().splitlines()
    number, _, text = title.removeprefix("# ").partition(". ")
    assert name.startswith(f"{int(number):04}-")
    word = status.removeprefix("**Status.** ")
    assert STATUS.fullmatch(word), status
    row = f"| {number} | [{text}]({name}) | {word[0].lower()}{word[1:-1]} |"
    assert row in (DOCS / "adr/index.md").read_text().splitlines()


def test_readme_is_one_screen_and_a_half() -> None:
    assert 90 <= len((ROOT / "README.md").read_text().splitlines()) <= 120
