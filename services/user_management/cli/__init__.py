"""The operator's command line: `python -m services.user_management.cli`."""
