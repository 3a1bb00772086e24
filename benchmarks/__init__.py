"""Benchmarks of the service, each run by `python -m benchmarks NAME`; some need the load generator `wrk`."""
