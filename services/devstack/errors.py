"""Errors while starting or running the development stack."""


class DevstackError(Exception):
    """Failure that the developer can act on; its text is shown without a traceback."""


class AlreadyInUseError(DevstackError):
    """Failure because another process still uses the data directory."""


class StartTimeoutError(DevstackError):
    """Failure because a started process did not answer in time."""
