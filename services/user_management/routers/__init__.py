"""Routers: each route turns one HTTP request into one call of a service."""
