"""Keeps the memory of the process, with its keys and tokens, out of core dumps."""

import resource
from typing import Final

_NO_DUMP: Final = 1
"""In bytes. Linux writes no file this short, and starts no program for it where the machine's `core_pattern` pipes core
dumps into one. A limit of 0 would not do: for such a program it is ignored (core(5)), 1 is not (fs/coredump.c)."""


def forbid_core_dumps() -> None:
    """Forbid core dumps of this process and of all that it starts, so that no crash writes keys and tokens to a disk.
    Set the hard limit too, so that nothing can raise the limit again.

    This does not cover a `core_pattern` that names a socket (Linux 6.16), nor one that names a program if the hard
    limit is 0 already, since a process without privileges cannot raise it to 1.
    """
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != 0:
        resource.setrlimit(resource.RLIMIT_CORE, (_NO_DUMP, _NO_DUMP))
