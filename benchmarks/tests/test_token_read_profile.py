"""The layer to which the benchmark `token_read_profile` attributes a sample of py-spy, and lines that are no sample."""

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.token_read_profile import count_by_layer

_MAIN = "<module> (services/user_management/main.py:12);run (asyncio/runners.py:118)"


def test_a_sample_belongs_to_the_innermost_listed_file_and_a_library_to_its_caller() -> None:
    counts = count_by_layer(
        [
            f"{_MAIN};run_asgi (uvicorn/protocols/http/httptools_impl.py:8);getlist (starlette/datastructures.py:3) 5",
            f"{_MAIN};_parse (services/user_management/routers/json_route.py:40);decode (json/decoder.py:337) 3",
            f"{_MAIN} 2",
            "_bootstrap (threading.py:1002);_worker (concurrent/futures/thread.py:81) 9",
        ]
    )

    assert counts == {"framework: routing, request, response": 5, "strict JSON, models": 3, "event loop": 2}


def test_a_line_of_another_form_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="another form"):
        count_by_layer(["no samples here"])
