"""Use cases, one class or module per subject. Each public method opens at most one unit of work (a transaction with its
audit rows and events) at a time, and knows nothing of HTTP or Celery."""
