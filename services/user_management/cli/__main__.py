"""Entry point of the command line: puts the commands together and runs the one that is named."""

import sys
from collections.abc import Collection
from importlib import import_module
from typing import Final

import typer

from services.user_management.core.core_dumps import forbid_core_dumps
from services.user_management.exceptions import ApplicationError, StartupError

_HERE: Final = "services.user_management.cli"
COMMANDS: Final = {"openapi": "openapi.print_schema", "diagnose": "diagnose.diagnose"}
GROUPS: Final = {
    "service": ("service", "Sibling services: keys and grants."),
    "keys": ("keys", "Encryption keys of the vault."),
    "db": ("database", "The schema."),
    "webhooks": ("webhooks", "Events from the identity provider."),
    "subscriptions": ("subscriptions", "Outgoing webhooks."),
    "reconcile": ("reconcile", "Compare with the identity provider."),
}


def command_line(names: Collection[str]) -> typer.Typer:
    """Return the command line with the commands and groups in `names`. Import only their modules: FastAPI and Alembic,
    each needed by one of them only, would take half of a short command's time."""
    app = typer.Typer(
        no_args_is_help=True, pretty_exceptions_enable=False, help="User management service, for operators."
    )
    app.callback()(lambda: None)  # a group, however many commands it has
    for name, (module, text) in GROUPS.items():
        if name in names:
            app.add_typer(import_module(f"{_HERE}.{module}").app, name=name, help=text)
    for name, place in COMMANDS.items():
        if name in names:
            module, _, function = place.partition(".")
            app.command(name=name)(getattr(import_module(f"{_HERE}.{module}"), function))
    return app


def main() -> None:
    """Run the command that the process's arguments name. Print an ApplicationError or a StartupError as one line on
    stderr, and exit with 1 if the command was refused, or with 2 if the process cannot start (configuration, keys,
    database)."""
    forbid_core_dumps()
    everything = {*COMMANDS, *GROUPS}
    try:
        command_line(everything.intersection(sys.argv[1:2]) or everything)()
    except StartupError as error:
        print(f"user-management: {error}", file=sys.stderr)
        sys.exit(2)
    except ApplicationError as error:
        print(f"user-management: {error.detail}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
