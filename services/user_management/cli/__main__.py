"""Puts the commands together."""

import sys

import typer

from services.user_management.cli import database, diagnose, keys, openapi, reconcile, service, subscriptions, webhooks
from services.user_management.exceptions import ApplicationError, StartupError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="User management service, for operators.")
app.add_typer(service.app, name="service", help="Sibling services: keys and grants.")
app.add_typer(keys.app, name="keys", help="Encryption keys of the vault.")
app.add_typer(database.app, name="db", help="The schema.")
app.add_typer(webhooks.app, name="webhooks", help="Events from the identity provider.")
app.add_typer(subscriptions.app, name="subscriptions", help="Outgoing webhooks.")
app.add_typer(reconcile.app, name="reconcile", help="Compare with the identity provider.")
app.command(name="openapi")(openapi.print_schema)
app.command(name="diagnose")(diagnose.diagnose)


def main() -> None:
    """Run a command; a problem is one line on stderr: exit 1 for a refusal, 2 for the configuration."""
    try:
        app()
    except StartupError as error:
        print(f"user-management: {error}", file=sys.stderr)
        sys.exit(2)
    except ApplicationError as error:
        print(f"user-management: {error.detail}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
