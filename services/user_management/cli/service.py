"""`cli service …`"""

import sys
from typing import Annotated

import typer

from services.user_management.cli.runtime import run
from services.user_management.container import Container

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the service.")]


@app.command()
def create(
    name: Name,
    grant: Annotated[list[str] | None, typer.Option(help="A provider whose tokens it may read, in any scope.")] = None,
) -> None:
    """Register a service and print its key: alone on stdout, once and never again."""

    async def create_and_grant(container: Container) -> str:
        providers = [container.providers.get(provider).name for provider in grant or []]
        key = await container.service_clients.create_service(name)
        await _grant_all(container, name, providers, scopes=None, reason_required=False)
        return key

    key = run(create_and_grant)
    print(f"The key of {name}; it is stored as a hash only, so keep it now:", file=sys.stderr)
    print(key)


@app.command(name="grant")
def grant_providers(
    name: Name,
    providers: Annotated[list[str], typer.Argument(help="Names of the providers.")],
    scope: Annotated[list[str] | None, typer.Option(help="A scope it may ask for; none given: any.")] = None,
    reason_required: Annotated[bool, typer.Option(help="Every read must give a reason.")] = False,
) -> None:
    """Let a service read the tokens of some providers; replaces earlier grants for them."""
    run(lambda container: _grant_all(container, name, providers, scopes=scope, reason_required=reason_required))
    print(f"{name} may read tokens of {', '.join(providers)}.", file=sys.stderr)


@app.command()
def revoke(name: Name) -> None:
    """Refuse every key of a service from now on."""
    revoked = run(lambda container: container.service_clients.revoke_service(name))
    print(f"{revoked} key(s) of {name} revoked.", file=sys.stderr)


@app.command(name="list")
def list_services() -> None:
    """All services with their live keys and grants."""
    for service in run(lambda container: container.service_clients.list_services()):
        print(
            f"{service.name}\tkeys: {', '.join(service.key_ids) or 'none'}\t{'; '.join(service.grants) or 'no grants'}"
        )


async def _grant_all(
    container: Container, name: str, providers: list[str], *, scopes: list[str] | None, reason_required: bool
) -> None:
    known = [container.providers.get(provider).name for provider in providers]
    for provider in known:
        await container.service_clients.grant(name, provider, scopes=scopes, reason_required=reason_required)
