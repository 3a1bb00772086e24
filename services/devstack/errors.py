"""Errors while starting or running the development stack."""


class DevstackError(Exception):
    """Failure that the developer can act on; its text is shown without a traceback."""


class AlreadyInUseError(DevstackError):
    """Failure because another live run holds the directory."""


class StartTimeoutError(DevstackError):
    """Failure because something was started but did not answer in time."""
