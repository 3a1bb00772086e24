"""An imitation of Clerk: session tokens, sessions, users, webhooks and the Backend API."""
