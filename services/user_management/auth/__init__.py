"""Authentication: reads and verifies the credentials of requests, turns them into principals, and has the guards that
routes declare."""
