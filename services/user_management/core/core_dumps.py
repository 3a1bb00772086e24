"""Memory stays memory."""

import resource


def forbid_core_dumps() -> None:
    """Let no crash write keys and tokens to a disk, of this process or of any that it starts. The hard limit too, so
    that nothing can raise it again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
