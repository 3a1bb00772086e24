"""Loader of the fuzz targets.

`<name>_target.py` exposes `fuzz_one(data: bytes) -> None`, which raises only if the code has a defect, and
`seeds() -> list[bytes]`, the inputs with which fuzzing begins.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

PACKAGE: Final = __name__.rpartition(".")[0]
_SUFFIX: Final = "_target"


@dataclass(frozen=True, slots=True)
class Target:
    """A fuzz target: the function that takes one input, and inputs to begin with."""

    fuzz_one: Callable[[bytes], None]
    seeds: list[bytes]

    @classmethod
    def load(cls, name: str) -> Self:
        """Import the target of this name, and with it the code that it fuzzes."""
        module = importlib.import_module(f"{PACKAGE}.{name}{_SUFFIX}")
        return cls(module.fuzz_one, module.seeds())


def target_names() -> list[str]:
    """Return the sorted names of all targets of this package."""
    return sorted(path.stem.removesuffix(_SUFFIX) for path in Path(__file__).parent.glob(f"*{_SUFFIX}.py"))
