"""Celery tasks. Each asks the slot runner to run its job, which it does if a run is due (a slot) and no other worker
has claimed it."""
