"""Figures of the service under load: `python -m benchmarks` (needs `wrk`)."""
