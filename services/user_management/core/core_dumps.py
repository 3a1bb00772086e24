"""Keeps the memory of the process, with its keys and tokens, out of core dumps."""

import resource


def forbid_core_dumps() -> None:
    """Forbid core dumps of this process and of all that it starts, so that no crash writes keys and tokens to a disk.
    Set the hard limit too, so that nothing can raise the limit again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
