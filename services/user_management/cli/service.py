"""`cli service …`: commands that manage sibling services, their keys, their grants (the right to read tokens of one
provider) and their permissions (all other rights)."""

import sys
from typing import Annotated

import typer

from services.user_management.cli.runtime import OPERATOR, run
from services.user_management.container import Container
from services.user_management.schemas.service import DEFAULT_OVERLAP_SECONDS, ServiceGrantSummary, ServiceResponse

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the service.")]


@app.command()
def create(
    name: Name,
    grant: Annotated[list[str] | None, typer.Option(help="A provider whose tokens it may read, in any scope.")] = None,
    permission: Annotated[list[str] | None, typer.Option(help="What it may do beyond reading tokens.")] = None,
) -> None:
    """Register a service and print its first key, alone on stdout. The key cannot be printed again.

    The grants are made after that, so the key is good even if one of them fails.
    """

    async def create_and_grant(container: Container) -> None:
        providers = [container.resources.providers.get(provider).name for provider in grant or []]
        key = await container.service_clients.create_service(OPERATOR, name, permission or [])
        _print_key(name, key)
        await _grant_all(container, name, providers, scopes=None, reason_required=False)

    run(create_and_grant)


@app.command()
def permit(
    name: Name,
    permissions: Annotated[
        list[str] | None, typer.Argument(help="What it may do from now on; without any, nothing.")
    ] = None,
) -> None:
    """Replace the permissions of a service, which say what it may do beyond reading tokens."""
    service = run(lambda container: container.service_clients.set_permissions(OPERATOR, name, permissions or []))
    print(f"Permissions of {name}: {_permissions(service)}.", file=sys.stderr)


@app.command(name="grant")
def grant_providers(
    name: Name,
    providers: Annotated[list[str], typer.Argument(help="Names of the providers.")],
    scope: Annotated[list[str] | None, typer.Option(help="A scope it may ask for; without this option, any.")] = None,
    reason_required: Annotated[bool, typer.Option(help="Every read must give a reason.")] = False,
) -> None:
    """Let a service read the tokens of some providers. This replaces earlier grants for them."""
    run(lambda container: _grant_all(container, name, providers, scopes=scope or None, reason_required=reason_required))
    print(f"{name} may read tokens of {', '.join(providers)}.", file=sys.stderr)


@app.command()
def withdraw(name: Name, provider: Annotated[str, typer.Argument(help="Name of the provider.")]) -> None:
    """Withdraw a service's grant for a provider: from now on the service can read no tokens of that provider."""
    run(lambda container: container.service_clients.withdraw_grant(OPERATOR, name, provider))
    print(f"{name} may no longer read tokens of {provider}.", file=sys.stderr)


@app.command()
def rotate(
    name: Name,
    overlap: Annotated[int, typer.Option(help="Seconds for which the former keys still work; may be 0.")] = (
        DEFAULT_OVERLAP_SECONDS
    ),
) -> None:
    """Make a new key of a service and print it, alone on stdout. The key cannot be printed again. The service's other
    keys end after the overlap, unless they end before."""
    _print_key(
        name, run(lambda container: container.service_clients.rotate_key(OPERATOR, name, overlap_seconds=overlap))
    )


@app.command()
def revoke(
    name: Name, key: Annotated[str | None, typer.Option(help="Id of one key; without this option, every key.")] = None
) -> None:
    """Refuse one key of a service, or every key of it, from now on."""
    if key is not None:
        run(lambda container: container.service_clients.revoke_key(OPERATOR, name, key))
        print(f"Key {key} of {name} revoked.", file=sys.stderr)
    else:
        revoked = run(lambda container: container.service_clients.revoke_service(OPERATOR, name))
        print(f"{revoked} key(s) of {name} revoked.", file=sys.stderr)


@app.command()
def disable(name: Name) -> None:
    """Refuse every key of a service, and send it no webhooks, until it is enabled again."""
    run(lambda container: container.service_clients.disable_service(OPERATOR, name))
    print(f"{name} is disabled.", file=sys.stderr)


@app.command()
def enable(name: Name) -> None:
    """Accept the keys of a disabled service again, and send the webhooks that waited."""
    run(lambda container: container.service_clients.enable_service(OPERATOR, name))
    print(f"{name} is enabled.", file=sys.stderr)


@app.command(name="list")
def list_services() -> None:
    """List all services, disabled ones too, with their valid keys, grants and permissions."""
    for service in run(lambda container: container.service_clients.list_services(OPERATOR)):
        keys = ", ".join(key.id for key in service.keys if key.live)
        grants = "; ".join(_describe(grant) for grant in service.grants)
        state = "" if service.disabled_at is None else "\tdisabled"
        permissions = _permissions(service)
        print(f"{service.name}\tkeys: {keys or 'none'}\t{grants or 'no grants'}\tpermissions: {permissions}{state}")


def _print_key(name: str, key: str) -> None:
    print(f"The key of {name}; it is stored as a hash only, so keep it now:", file=sys.stderr)
    print(key)


def _permissions(service: ServiceResponse) -> str:
    return ", ".join(service.permissions) or "none"


def _describe(grant: ServiceGrantSummary) -> str:
    scopes = "any scope" if grant.scopes is None else " ".join(grant.scopes)
    return f"{grant.provider}: {scopes}{', reason required' if grant.reason_required else ''}"


async def _grant_all(
    container: Container, name: str, providers: list[str], *, scopes: list[str] | None, reason_required: bool
) -> None:
    known = [container.resources.providers.get(provider).name for provider in providers]
    for provider in known:
        await container.service_clients.grant(OPERATOR, name, provider, scopes=scopes, reason_required=reason_required)
