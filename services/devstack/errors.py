"""What goes wrong while starting or running the development stack."""


class DevstackError(Exception):
    """A failure a person can act on; its text is one line and is shown without a traceback."""


class AlreadyInUseError(DevstackError):
    """Another live run holds the directory."""


class StartTimeoutError(DevstackError):
    """Something was started but did not answer in time."""
