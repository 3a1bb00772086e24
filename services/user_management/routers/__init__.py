"""The routes of the API, each of which turns one HTTP request into one use case, and what routes share."""
