"""The error that ends a benchmark."""


class BenchmarkError(Exception):
    """Failure that ends a benchmark; its text is printed without a traceback."""
