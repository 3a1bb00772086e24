"""Benchmarks of the user management service; `python -m benchmarks NAME` runs one. Some need the load generator wrk."""
