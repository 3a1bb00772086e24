"""What keeps a benchmark from measuring."""


class BenchmarkError(Exception):
    """The run cannot go on; its text is one line and is shown without a traceback."""
