"""Use cases. Each public method opens at most one unit of work at a time and knows nothing of HTTP or Celery."""
