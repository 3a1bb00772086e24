"""An imitation of Clerk and of OAuth providers on the loopback interface, for development and tests."""
