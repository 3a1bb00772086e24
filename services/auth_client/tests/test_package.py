"""The package of the token clients works without the rest of the repository (a sibling service needs this folder and
httpx), is typed, and takes address and key from the environment."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services import auth_client
from services.auth_client import AsyncTokenClient, TokenClient
from services.auth_client.tests.service_stand_in import KEY

FOLDER = Path(auth_client.__file__).parent
PROBE = """
import sys
import services.auth_client
ours = {name for name in sys.modules if name.startswith("services.") and not name.startswith("services.auth_client")}
print(sorted(ours | sys.modules.keys() & {"fastapi", "starlette", "pydantic", "ormar", "structlog", "celery"}))
"""


def test_package_imports_without_the_rest_of_the_repository(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "__init__.py").touch()
    shutil.copytree(FOLDER, tmp_path / "services" / "auth_client", ignore=shutil.ignore_patterns("tests"))

    ran = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert ran.stderr == ""
    assert ran.stdout == "[]\n"


def test_package_says_that_it_is_typed() -> None:
    assert (FOLDER / "py.typed").exists()


@pytest.mark.parametrize("kind", [TokenClient, AsyncTokenClient])
def test_client_from_the_environment_takes_url_and_key(
    monkeypatch: pytest.MonkeyPatch, kind: type[TokenClient | AsyncTokenClient]
) -> None:
    monkeypatch.setenv("USER_MANAGEMENT_URL", "https://users.example.com/")
    monkeypatch.setenv("USER_MANAGEMENT_KEY", f"{KEY}\n")

    client = kind.from_environment()

    assert repr(client) == f"{kind.__name__}('https://users.example.com')"


@pytest.mark.parametrize("missing", ["USER_MANAGEMENT_URL", "USER_MANAGEMENT_KEY"])
def test_client_from_an_environment_without_a_variable_names_it(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setenv("USER_MANAGEMENT_URL", "https://users.example.com")
    monkeypatch.setenv("USER_MANAGEMENT_KEY", KEY)
    monkeypatch.delenv(missing)

    with pytest.raises(ValueError, match=f"{missing} is not set"):
        TokenClient.from_environment()
