"""Tests that the documents are complete and right in what they list (settings, errors, events, jobs …), that their
provider files can be read, and that their links lead somewhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.user_management.celery_config import TICKS
from services.user_management.enums import EventType, IntegrationStatus, ReauthReason
from services.user_management.exceptions import CATALOGUE
from services.user_management.integrations.oauth_config import ProviderConfig, read_provider
from services.user_management.settings import variable_names

ROOT = Path(__file__).parents[3]
README = ROOT / "README.md"
CONFIGURATION = ROOT / "documentation" / "configuration.md"
DESIGN = ROOT / "documentation" / "user-management-service.md"
DOCUMENTS = sorted([README, *(ROOT / "documentation").rglob("*.md")])
CONNECTIONS = ROOT / "documentation" / "connections.md"
EVENTS = ROOT / "documentation" / "events.md"
OPERATIONS = ROOT / "documentation" / "operations.md"
PROVIDERS = ROOT / "documentation" / "providers.md"
DIAGNOSIS = ROOT / "services" / "user_management" / "services" / "diagnosis_service"

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_ROW = re.compile(r"^\| `([^`]+)` \|")
_NAMES = re.compile(r"`([^`]+)`")
_TOML = re.compile(r"^```toml$\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def prose(path: Path) -> str:
    """Return the document without its code blocks."""
    return _FENCED.sub("", path.read_text(encoding="utf-8"))


def table_rows(path: Path, first_heading: str) -> list[str]:
    """Return the first cells, without backticks, of the one table whose header begins with `first_heading`; `?` for a
    cell that is not in backticks."""
    _, *tables = prose(path).split(f"| {first_heading} |")
    assert len(tables) == 1
    lines = tables[0].splitlines()[2:]
    end = next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))
    rows = [_ROW.match(line) for line in lines[:end]]
    return [row[1] if row else "?" for row in rows]


def names_in_first_cells(path: Path, first_heading: str) -> list[str]:
    """Return what stands in backticks in the first column of the one table whose header begins with `first_heading`."""
    _, table = prose(path).split(f"\n| {first_heading} |")
    rows, _, _ = table.partition("\n\n")
    return [name for row in rows.splitlines()[2:] for name in _NAMES.findall(row.split("|")[1])]


def provider_files() -> Iterator[str]:
    """Yield the examples of provider files in the documents."""
    for path in DOCUMENTS:
        yield from _TOML.findall(path.read_text(encoding="utf-8"))


def codes_of_findings() -> set[str]:
    """Return every string that the code of the diagnosis passes as `code=`."""
    calls = [
        node
        for path in DIAGNOSIS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "code"
    ]
    values = [value.value for call in calls for value in ast.walk(call.value) if isinstance(value, ast.Constant)]
    return {value for value in values if isinstance(value, str)}


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = _HEADING.findall(prose(path))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    """Return the relative links of a document that lead nowhere."""
    broken = []
    for link in _LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def test_readme_stays_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 250


def test_table_of_variables_lists_exactly_those_that_exist() -> None:
    assert table_rows(CONFIGURATION, "variable") == list(variable_names())


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


def test_documents_example_of_a_provider_file_is_one(tmp_path: Path) -> None:
    names = []
    for number, text in enumerate(provider_files()):
        file = tmp_path / f"{number}.toml"
        file.write_text(text, encoding="utf-8")
        names.append(read_provider(file).name)

    assert names == ["acme", "acme", "globex"]


def test_every_key_of_a_provider_file_is_explained() -> None:
    explained = {name.strip("[]") for name in names_in_first_cells(PROVIDERS, "key")}

    assert explained == set(ProviderConfig.model_fields)


def test_table_of_events_lists_exactly_those_that_exist() -> None:
    assert sorted(names_in_first_cells(EVENTS, "type")) == sorted(EventType)


def test_table_of_statuses_lists_exactly_those_that_exist() -> None:
    assert sorted(names_in_first_cells(CONNECTIONS, "status")) == sorted(IntegrationStatus)


def test_table_of_reasons_lists_exactly_those_that_exist() -> None:
    assert sorted(names_in_first_cells(CONNECTIONS, "reason")) == sorted(ReauthReason)


def test_table_of_findings_lists_exactly_those_that_exist() -> None:
    assert sorted(names_in_first_cells(CONNECTIONS, "finding")) == sorted(codes_of_findings())


def test_table_of_jobs_lists_exactly_those_that_tick() -> None:
    seconds = {"s": 1.0, "min": 60.0}
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d+) (s|min) \|", prose(OPERATIONS), re.MULTILINE)

    assert {job: int(number) * seconds[unit] for job, number, unit in rows} == TICKS
