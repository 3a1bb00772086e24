"""The user management service: users, their preferences, and the OAuth tokens their other services need."""
