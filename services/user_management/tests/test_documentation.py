"""What the documents promise to be complete: the settings, the errors, and every link between files."""

import re
from pathlib import Path

import pytest

from services.user_management.exceptions import CATALOGUE
from services.user_management.settings import variable_names

ROOT = Path(__file__).parents[3]
README = ROOT / "README.md"
DESIGN = ROOT / "documentation" / "user-management-service.md"
DOCUMENTS = sorted([README, *(ROOT / "documentation").rglob("*.md")])

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_ROW = re.compile(r"^\| `([^`]+)` \|")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def prose(path: Path) -> str:
    """The document without its code blocks."""
    return _FENCED.sub("", path.read_text(encoding="utf-8"))


def table_rows(path: Path, first_heading: str) -> list[str]:
    """First cells, without backticks, of the one table whose header begins with `first_heading`."""
    _, *tables = prose(path).split(f"| {first_heading} |")
    assert len(tables) == 1
    lines = tables[0].splitlines()[2:]
    end = next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))
    rows = [_ROW.match(line) for line in lines[:end]]
    return [row[1] if row else "?" for row in rows]


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = _HEADING.findall(prose(path))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    """Relative links of a document that lead nowhere."""
    broken = []
    for link in _LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def test_readme_table_of_variables_lists_exactly_those_that_exist() -> None:
    assert table_rows(README, "variable") == list(variable_names())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_links_all_resolve(path: Path) -> None:
    assert not broken_links(path)


def test_design_table_of_errors_lists_exactly_the_catalogue() -> None:
    assert sorted(table_rows(DESIGN, "code")) == sorted(CATALOGUE)


def test_design_table_of_errors_gives_each_its_status() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", prose(DESIGN), re.MULTILINE)

    assert {code: int(status) for code, status in rows} == {code: error.status for code, error in CATALOGUE.items()}


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "documentation" / "adr"
    index = (folder / "README.md").read_text(encoding="utf-8")

    assert [path.name for path in sorted(folder.glob("[0-9]*.md")) if f"({path.name})" not in index] == []
