from pathlib import Path

import pytest

from services.devstack.errors import DevstackError
from services.devstack.procfile import read_procfile


def _procfile(folder: Path, text: str) -> Path:
    path = folder / "Procfile"
    path.write_text(text)
    return path


def test_procfile_with_quotes_and_variables_gives_words(tmp_path: Path) -> None:
    path = _procfile(tmp_path, '# comment\n\nweb: serve --title "a b" --file "${FOLDER}/x" ${LEVEL:-INFO}\n')

    commands = read_procfile(path, {"FOLDER": "/with space"})

    assert commands == {"web": ["serve", "--title", "a b", "--file", "/with space/x", "INFO"]}


def test_procfile_value_with_shell_characters_stays_one_word(tmp_path: Path) -> None:
    path = _procfile(tmp_path, "web: serve ${WHAT}\n")

    commands = read_procfile(path, {"WHAT": "a b; rm -rf $(HOME)"})

    assert commands["web"] == ["serve", "a b; rm -rf $(HOME)"]


def test_procfile_order_is_kept(tmp_path: Path) -> None:
    path = _procfile(tmp_path, "web: a\nworker: b\nbeat: c\n")

    assert list(read_procfile(path, {})) == ["web", "worker", "beat"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web serve\n", "line 1: is not `name: command`"),
        ("web:\n", "line 1: is not `name: command`"),
        ("web: a\nweb: b\n", "line 2: web is named twice"),
        ("web: a ${NOWHERE}\n", "line 1: the variable NOWHERE is not set"),
        ('web: a "b\n', "line 1: No closing quotation"),
    ],
)
def test_procfile_malformed_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = _procfile(tmp_path, text)

    with pytest.raises(DevstackError, match=message):
        read_procfile(path, {})
