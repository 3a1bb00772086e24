"""`python -m benchmarks`: a run that could not be made ends with one line on stderr and exit status 1."""

import pytest

from benchmarks import __main__, token_load
from services.devstack.main_job import MainJobError


def test_step_that_fails_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_options: token_load.Options) -> bool:
        raise MainJobError("POST /users answered 500: oh")

    monkeypatch.setattr(token_load, "run", fail)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["benchmarks", "token_load"])

    assert __main__.main() == 1
    assert capsys.readouterr().err == "benchmarks: POST /users answered 500: oh\n"
