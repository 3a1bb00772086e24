"""The Procfile of the naive service starts the same processes as that of the service, with the naive refresher."""

from benchmarks.chaos.fleet import NAIVE_RECIPE
from services.devstack.procfile import read_procfile
from services.devstack.running_service import REPOSITORY

NAIVE = ["python", "-m", "benchmarks.chaos.naive"]


def test_naive_procfile_starts_what_the_procfile_starts_by_another_module() -> None:
    real = read_procfile(REPOSITORY / "Procfile", {})
    naive = read_procfile(NAIVE_RECIPE.procfile, {})

    assert naive == {
        "web": [*NAIVE, "web"],
        "worker": [*NAIVE, "worker", *real["worker"][3:]],
        "beat": real["beat"],
    }
