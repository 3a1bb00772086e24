"""Authentication: it turns credentials into principals, and has the guards that routes declare."""
