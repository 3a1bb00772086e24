"""The parsing of wrk's output, and the script that is written for wrk."""

from pathlib import Path

import pytest

from benchmarks import wrk
from benchmarks.errors import BenchmarkError

BANNER = """\
Running 10s test @ http://127.0.0.1:40001
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    12.93ms    4.31ms  60.11ms   81.20%
    Req/Sec     2.49k   210.00     2.83k    71.00%
  24871 requests in 10.05s, 16.22MB read
  Non-2xx or 3xx responses: 3
Requests/sec:   2474.20
Transfer/sec:      1.61MB
"""
RESULT = (
    'result {"requests": 24871, "microseconds": 10052000, "p50": 12500, "p99": 31250,'
    ' "connect": 0, "read": 1, "write": 0, "status": 3, "timeout": 2}\n'
)


def test_output_with_result_gives_rate_and_latencies() -> None:
    result = wrk.parse(BANNER + RESULT)

    assert result.requests == 24871
    assert result.rate == pytest.approx(2474.23, abs=0.01)
    assert (result.p50_milliseconds, result.p99_milliseconds) == (12.5, 31.25)


def test_output_with_failures_gives_their_sum() -> None:
    assert wrk.parse(BANNER + RESULT).failures == 6


def test_output_without_result_raises_with_last_line() -> None:
    with pytest.raises(BenchmarkError, match=r"no result: unable to connect"):
        wrk.parse("Running 10s test\nunable to connect to 127.0.0.1:1 Connection refused\n")


def test_empty_output_raises() -> None:
    with pytest.raises(BenchmarkError, match="no result"):
        wrk.parse("")


def test_output_with_no_answers_raises_naming_the_failures() -> None:
    nothing = RESULT.replace("24871", "0")

    with pytest.raises(BenchmarkError, match=r"no answer: \{'read': 1, 'status': 3, 'timeout': 2\}"):
        wrk.parse(nothing)


def test_script_of_posts_quotes_what_it_is_given(tmp_path: Path) -> None:
    script = tmp_path / "load.lua"

    wrk.write_script(script, wrk.Posts('/a"b', {"X-Key": "a\\b"}, ['{"n": 1}', '{"n": 2}']), seed=7)

    text = script.read_text()
    assert "math.randomseed(7)" in text
    assert r'wrk.format("POST", "/a\"b", {["X-Key"] = "a\\b"}, line)' in text
    assert (tmp_path / "load.lines").read_text() == '{"n": 1}\n{"n": 2}\n'


def test_script_of_gets_takes_authorizations_from_file(tmp_path: Path) -> None:
    script = tmp_path / "load.lua"

    wrk.write_script(script, wrk.Gets("/users/me", ["Bearer one", "Bearer two"]), seed=7)

    assert 'wrk.format("GET", "/users/me", {["Authorization"] = line})' in script.read_text()
    assert (tmp_path / "load.lines").read_text() == "Bearer one\nBearer two\n"


def test_script_with_a_line_break_in_a_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="printable"):
        wrk.write_script(tmp_path / "load.lua", wrk.Posts("/", {"X": "a\nb"}, []), seed=1)


def test_missing_wrk_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(BenchmarkError, match="apt-get install wrk"):
        wrk.require()
