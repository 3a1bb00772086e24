"""An imitation of Clerk: session tokens, users, webhooks, Backend API and a sign-in page."""
