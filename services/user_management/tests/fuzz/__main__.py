"""Fuzz one target for a while: `python -m services.user_management.tests.fuzz webhook --seconds 60`.

Exits 0 when the time is over, non-zero at the first input that a target does not survive, and 2 without atheris.
"""

import argparse
import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Final

from services.user_management.tests.fuzz.targets import Target, target_names

INSTRUMENTED: Final = ["services.user_management"]
MAX_BYTES: Final = 4096
SECONDS_PER_INPUT: Final = 10
NOT_INSTALLED: Final = 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.user_management.tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=target_names())
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0: a new one each time; libFuzzer prints it")
    parser.add_argument("--folder", type=Path, help="corpus and what was not survived; default: a new one")
    return parser.parse_args()


def _write_corpus(target: Target, folder: Path) -> None:
    for number, seed in enumerate(target.seeds):
        (folder / f"seed-{number}").write_bytes(seed)


def main() -> None:
    """Fuzz the target that the command line names. libFuzzer ends the process, so this does not return."""
    arguments = _arguments()
    if importlib.util.find_spec("atheris") is None:
        print("fuzzing needs the package atheris, which is not installed", file=sys.stderr)  # noqa: T201 - a CLI
        sys.exit(NOT_INSTALLED)
    atheris = importlib.import_module("atheris")
    # Whatever the target imports is rewritten to report which branches it takes; hence no import of it above.
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = Target.load(arguments.target)
    folder: Path = arguments.folder or Path(tempfile.mkdtemp(prefix=f"fuzz-{arguments.target}-"))
    _write_corpus(target, folder)
    options = {
        "max_total_time": arguments.seconds,
        "seed": arguments.seed,
        "max_len": MAX_BYTES,
        "timeout": SECONDS_PER_INPUT,
        "artifact_prefix": f"{folder}/",
        "print_final_stats": 1,
    }
    atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(folder)], target.fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
