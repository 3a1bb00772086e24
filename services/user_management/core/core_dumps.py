"""Keeps the memory of the process, with its keys and tokens, out of core dumps."""

import resource
from typing import Final

_NO_DUMP: Final = 1
"""The limit of a core dump, in bytes. With it Linux writes no file and, where the machine's `core_pattern` pipes core
dumps into a program, does not start that program. A limit of 0 would not stop the program (core(5)); a limit of 1 does
(fs/coredump.c)."""


def forbid_core_dumps() -> None:
    """Forbid core dumps of this process and of all that it starts, so that no crash writes keys and tokens to a disk.
    Set the hard limit too, so that nothing can raise the limit again.

    This does not cover a `core_pattern` that names a socket (Linux 6.16), nor one that names a program if the hard
    limit is 0 already, since a process without privileges cannot raise it to 1.
    """
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != 0:
        resource.setrlimit(resource.RLIMIT_CORE, (_NO_DUMP, _NO_DUMP))
