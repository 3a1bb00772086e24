"""The error that ends a benchmark."""


class BenchmarkError(Exception):
    """Ends the run; its text is one line and is shown without a traceback."""
