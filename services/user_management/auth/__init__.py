"""Authentication and rate limits: reads and verifies the credentials of requests, turns them into principals, and has
the guards that routes declare (FastAPI dependencies that refuse a request or let it pass)."""
