"""Celery tasks, one for each periodic job. A task runs a slice (a few seconds) of its job if a run of the job (a slot)
is due or not finished, and no other worker is at work on the job; otherwise the task does nothing."""
