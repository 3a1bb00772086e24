"""Celery tasks: each asks the slot runner for its job's current slot."""
