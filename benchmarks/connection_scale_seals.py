"""Gives some users tokens that the vault can open: `python -m benchmarks.connection_scale_seals FILE`.

FILE is a JSON array of user ids. The module runs as a process of its own, in the environment of the service, whose
vault seals the tokens. All other users keep bytes of the same length that the vault cannot open.
"""

import argparse
import asyncio
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from benchmarks.seeding import PROVIDER
from services.user_management.container import Container
from services.user_management.core.context import RequestContext, use_context
from services.user_management.core.principal import system
from services.user_management.integrations.oauth_client import TokenAnswer
from services.user_management.services.token_service import store_tokens
from services.user_management.settings import get_settings
from services.user_management.tests.actors import TESTER

_ACCESS_BYTES, _REFRESH_BYTES = 110, 52  # in hex they are as long as the tokens that they replace
_LIFETIME_SECONDS: Final = 7 * 86_400.0
"""Lifetime of an access token: longer than any run, so that no read finds an expired one and no provider is called."""
_BATCH: Final = 250
_HELD = sa.text("""
SELECT id, user_id FROM integrations WHERE user_id = ANY(:user_ids) AND provider = :provider AND status = 'active'
""").bindparams(sa.bindparam("user_ids", type_=sa.ARRAY(sa.Text())))


async def seal(user_ids: Sequence[str]) -> None:
    """Seal new tokens for all active integrations of the users at Google."""
    container = Container(get_settings())
    await container.start()
    try:
        for start in range(0, len(user_ids), _BATCH):
            await _seal(container, user_ids[start : start + _BATCH])
    finally:
        await container.stop()


async def _seal(container: Container, user_ids: Sequence[str]) -> None:
    key_version = await container.keys.vault.active_version()
    async with container.resources.unit_of_work(TESTER) as uow:
        held = await uow.connection.execute(_HELD, {"user_ids": user_ids, "provider": PROVIDER})
        for row in held.all():
            grant = TokenAnswer(
                access_token=secrets.token_hex(_ACCESS_BYTES),
                refresh_token=secrets.token_hex(_REFRESH_BYTES),
                lifetime_seconds=_LIFETIME_SECONDS,
                scopes=(),
                sent_at=uow.clock.monotonic(),
            )
            await store_tokens(
                uow, container.keys.vault, grant, user_id=row.user_id, integration_id=row.id, key_version=key_version
            )


def main() -> None:
    """Seal tokens for the users that the file names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.connection_scale_seals")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    with use_context(RequestContext(request_id="seals", actor=system("benchmark"))):
        asyncio.run(seal(json.loads(arguments.file.read_text())))


if __name__ == "__main__":
    main()
