"""The database as this process sees it: ormar's connection for models and units of work (transactions), and the door, a
pool of driver connections for the statements in the path of every request; spellings of Postgres URLs, and what errors
mean.

ormar wants a database object when a model class is created, long before settings are read; so there is one object per
process that is bound later. Constructing it connects to nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import asyncpg
import structlog
from asyncpg.connect_utils import SessionAttribute
from ormar import DatabaseConnection
from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from services.user_management.exceptions import DatabaseUnavailableError
from services.user_management.settings import DatabaseGroup

UNAVAILABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""What the driver raises when Postgres is unreachable or a standby. Each means that the statement did nothing, or that
nobody knows whether it did, so the caller is answered 503.

`InternalClientError` means that a connection ended just as a statement was sent, or that no host is a primary. Only
statements on the door's pool can raise `ReadOnlySQLTransactionError`: they never ask for a read-only transaction, so it
means that the server takes no writes. Through SQLAlchemy, where every transaction but a unit of work's begins as READ
ONLY, the same SQLSTATE is a stray write and our own fault; it is then raised as SQLAlchemy's class, which is not listed
here.
"""
DatabaseError: Final = (SQLAlchemyError, *UNAVAILABLE)
"""Every error of the database in a unit of work, from an unreachable Postgres to a statement that it refuses."""
_UNAVAILABLE_SQLSTATES: Final = ("08", "53", "57P", "40P01", "40001")
"""Prefixes of SQLSTATEs: connection exceptions, insufficient resources (disk full included), operator intervention, and
transactions that were rolled back in favour of another one (deadlock, serialization failure)."""

UNDEFINED_TABLE: Final = "42P01"
"""SQLSTATE of a missing table."""
FEATURE_NOT_SUPPORTED: Final = "0A000"
"""SQLSTATE of whatever a server cannot do; writing while it is a standby is one case among many."""

_OPEN_FOR_WRITING: Final = "SET TRANSACTION READ WRITE"
_PRIMARY: Final = SessionAttribute.primary
_TAKES_WRITES: Final = "SELECT current_setting('transaction_read_only') = 'off'"
"""Tells whether a session can write. It cannot during recovery (`pg_is_in_recovery()`), nor where an operator, or a
hoster whose disk is full, has set `default_transaction_read_only`."""

DriverPool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
DriverRow: TypeAlias = asyncpg.Record

log = structlog.get_logger(__name__)


class BoundLater(DatabaseConnection):
    """ormar's connection, given its URL after the models exist.

    Every transaction begins as READ ONLY, that of a plain statement too, and only `open_for_writing` lets one write.
    Each BEGIN says so, because no other way works everywhere: pgbouncer refuses the setting as a startup parameter, and
    in transaction mode it forgets what was SET in a session.
    """

    def __init__(self) -> None:
        super().__init__("postgresql+asyncpg://")
        self.door: DriverPool | None = None
        self._generation = 0

    def bind(self, url: str, **options: Any) -> None:
        """Set the URL and the options of the engine that `connect()` creates."""
        self._url = url
        self._options = {**options, "execution_options": {"postgresql_readonly": True}}

    async def connect(self) -> None:
        """Create the engine, if there is none. Connections are opened when first used."""
        if self.is_connected:
            return
        await super().connect()
        # ormar's own view for plain statements is in autocommit, where no BEGIN could say READ ONLY.
        self._autocommit_engine = self._engine
        event.listen(self.engine.sync_engine, "connect", self._note_generation)
        event.listen(self.engine.sync_engine, "checkout", self._refuse_dropped)
        event.listen(self.engine.sync_engine, "handle_error", self._notice_standby)

    async def open_for_writing(self, connection: AsyncConnection) -> None:
        """Let the transaction that `connection` has just begun write. On a standby this statement fails, and all pooled
        connections are dropped."""
        await connection.exec_driver_sql(_OPEN_FOR_WRITING)

    async def drop_connections(self) -> None:
        """Replace every pooled connection, the door's too, before its next use, because the server that these
        connections lead to takes no writes."""
        self._generation += 1
        if self.door is not None:
            await self.door.expire_connections()
        log.warning("database.connections_dropped", reason="the server takes no writes")

    def _note_generation(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        entry.info["generation"] = self._generation

    def _refuse_dropped(self, _connection: object, entry: ConnectionPoolEntry, _proxy: object) -> None:
        """Make the pool connect anew in place of a dropped connection (see sqlalchemy.exc.DisconnectionError)."""
        if entry.info["generation"] != self._generation:
            raise DisconnectionError

    def _notice_standby(self, context: ExceptionContext) -> None:
        """Treat a standby as an unreachable server, and drop all connections. Only a standby refuses SET TRANSACTION
        READ WRITE as a feature that is not supported; a cached plan that no longer fits has the same SQLSTATE and stays
        our error."""
        sqlstate = getattr(context.original_exception, "sqlstate", None)
        if context.statement == _OPEN_FOR_WRITING and sqlstate == FEATURE_NOT_SUPPORTED:
            context.is_disconnect = True
            await_only(self.drop_connections())


ormar_database = BoundLater()


def _parsed(url: str) -> URL:
    """Parse a Postgres URL in any usual spelling. Several hosts, written as for libpq or as for SQLAlchemy, are put
    into the one form that SQLAlchemy and asyncpg both understand: `?host=a,b&port=5432,5433`."""
    scheme, _, rest = url.partition("://")
    authority, slash, tail = rest.partition("/")
    account, at, hosts = authority.rpartition("@")
    several = hosts.split(",") if "," in hosts else []
    parsed = make_url(f"{scheme}://{account}{at}{slash}{tail}" if several else url)
    in_query = parsed.query.get("host", ())
    if isinstance(in_query, tuple):
        several = [*several, *in_query]
    if len(several) < 2:
        return parsed
    split = [host.partition(":") for host in several]
    hosts, ports = ",".join(name for name, _, _ in split), ",".join(port or "5432" for _, _, port in split)
    return parsed.update_query_dict({"host": hosts, "port": ports})


def sqlalchemy_url(url: str) -> str:
    """Return `url` in the form that SQLAlchemy's asyncpg dialect takes."""
    return _parsed(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


def driver_url(url: str) -> str:
    """Return `url` in the form that asyncpg itself takes."""
    return _parsed(url).set(drivername="postgresql").render_as_string(hide_password=False)


def role_of(url: str) -> str:
    """Return the role that `url` logs in as; empty if it names none."""
    return _parsed(url).username or ""


async def fetch_row(
    pool: DriverPool, statement: str, *arguments: Any, timeout_seconds: float
) -> "asyncpg.Record | None":
    """Return the first row of `statement`, None if there is none. Waits for a free connection for at most
    `timeout_seconds`; the statement itself has the time limit of the pool.

    Raises the driver's errors (see UNAVAILABLE): TimeoutError is one of them; on ReadOnlySQLTransactionError, which
    means that the server takes no writes (any more), all connections are also dropped. The pool's own timeout is not
    used, because it makes a task for each acquisition, and no timer is started while a connection is idle: the two
    would cost a tenth of the CPU of a request.
    """
    if pool.get_idle_size():
        connection = await pool.acquire()
    else:
        async with asyncio.timeout(timeout_seconds):
            connection = await pool.acquire()
    try:
        return await connection.fetchrow(statement, *arguments)
    except asyncpg.ReadOnlySQLTransactionError:
        await ormar_database.drop_connections()
        raise
    finally:
        await pool.release(connection)


async def fetch_rows(
    pool: DriverPool, statement: str, *arguments: Any, timeout_seconds: float
) -> "list[asyncpg.Record]":
    """Return all rows of `statement`. Taking a connection and running the statement may take `timeout_seconds` in all.
    Raises what `fetch_row` raises."""
    try:
        async with asyncio.timeout(timeout_seconds), pool.acquire() as connection:
            return await connection.fetch(statement, *arguments)
    except asyncpg.ReadOnlySQLTransactionError:
        await ormar_database.drop_connections()
        raise


async def _keep_session(_connection: object) -> None:
    """Do nothing, in place of the statement by which the pool resets a session: our statements leave nothing behind in
    a session, so this round trip is saved."""


class Database:
    """Opens and closes the two pools (SQLAlchemy's, and the driver's, which is the door), lends their connections, and
    tells whether Postgres answers."""

    def __init__(self, settings: DatabaseGroup) -> None:
        self._settings = settings
        self._probe: asyncpg.Connection[asyncpg.Record] | None = None
        self._probing = asyncio.Lock()

    async def connect(self) -> None:
        """Create the pools. Connections are opened when first used, so Postgres may still be unreachable."""
        settings = self._settings
        url = settings.url.get_secret_value()
        ormar_database.bind(
            sqlalchemy_url(url),
            pool_size=settings.pool_size,
            max_overflow=settings.pool_size,
            pool_timeout=2,
            pool_pre_ping=True,
            # An error's text goes to the log; the values of its statement do not.
            hide_parameters=True,
            connect_args={
                "timeout": settings.timeout_seconds,
                "command_timeout": settings.timeout_seconds,
                "statement_cache_size": settings.statement_cache_size,
                # SQLAlchemy's own cache on top of the driver's.
                "prepared_statement_cache_size": settings.statement_cache_size,
                "target_session_attrs": _PRIMARY,
                "server_settings": {"application_name": "user-management"},
            },
        )
        await ormar_database.connect()
        ormar_database.door = await asyncpg.create_pool(
            driver_url(url),
            min_size=0,
            max_size=settings.door_pool_size,
            timeout=settings.timeout_seconds,
            command_timeout=settings.timeout_seconds,
            statement_cache_size=settings.statement_cache_size,
            reset=_keep_session,
            target_session_attrs=_PRIMARY,
            server_settings={"application_name": "user-management-door"},
        )

    async def disconnect(self) -> None:
        """Close both pools and the connection of `ping`."""
        if self._probe is not None:
            self._probe.terminate()
            self._probe = None
        if ormar_database.door is not None:
            await ormar_database.door.close()
            ormar_database.door = None
        await ormar_database.disconnect()

    @property
    def door(self) -> "asyncpg.Pool[asyncpg.Record]":
        """Return the pool of driver connections, for the statements in the path of every request. Only the statement of
        `queries.token_read` writes. Raises DatabaseUnavailableError before `connect`."""
        if ormar_database.door is None:
            raise DatabaseUnavailableError
        return ormar_database.door

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a read-only transaction, for queries of SQLAlchemy Core."""
        async with ormar_database.connection() as connection:
            yield connection

    async def ping(self, *, timeout_seconds: float) -> bool:
        """Tell whether Postgres answers within `timeout_seconds` and takes writes. If the server to which `ping` is
        connected takes none, all pooled connections are dropped too.

        This uses a connection of its own: a process whose pools are busy is not unready.
        """
        try:
            async with asyncio.timeout(timeout_seconds), self._probing:
                if self._probe is None or self._probe.is_closed():
                    self._probe = await asyncpg.connect(
                        driver_url(self._settings.url.get_secret_value()),
                        statement_cache_size=self._settings.statement_cache_size,
                        target_session_attrs=_PRIMARY,
                    )
                if await self._probe.fetchval(_TAKES_WRITES):
                    return True
                await ormar_database.drop_connections()
        except (*UNAVAILABLE, asyncpg.PostgresError):
            pass  # the answer is the same as a standby's
        if self._probe is not None:
            self._probe.terminate()
            self._probe = None
        return False


def is_unavailable(error: BaseException) -> bool:
    """Tell whether `error` means that Postgres cannot serve us now, rather than that a statement is wrong: it is
    unreachable, a standby or out of resources, no connection of the pool became free, or a transaction was rolled back
    in favour of another one."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = getattr(error, "orig", None) or error
    if isinstance(getattr(cause, "__cause__", None), asyncpg.InternalClientError):
        return True
    sqlstate = str(getattr(cause, "sqlstate", None) or "")
    if isinstance(error, SQLAlchemyError) and type(error).__name__ == "TimeoutError":
        return True
    return isinstance(cause, UNAVAILABLE) or sqlstate.startswith(_UNAVAILABLE_SQLSTATES)


def is_schema_missing(error: BaseException) -> bool:
    """Tell whether `error`, of a statement through SQLAlchemy, means that a table is missing because nobody has
    migrated the database. False for errors of the driver itself, as the door raises them."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) == UNDEFINED_TABLE


def constraint_name(error: BaseException) -> str | None:
    """Return the name of the constraint that `error` is about; None if it is about none."""
    name = getattr(_driver_error(error), "constraint_name", None)
    return str(name) if name else None


def describe_database_error(error: BaseException) -> str | None:
    """Describe a database error by the driver's name for it, its SQLSTATE and its constraint; None for any other error.

    The error's text is left out: Postgres and the driver quote rows and arguments there, even in the first line.
    """
    driver_error = _driver_error(error)
    if not isinstance(error, StatementError | asyncpg.InterfaceError) and not hasattr(driver_error, "sqlstate"):
        return None
    sqlstate = getattr(driver_error, "sqlstate", None)
    return " ".join(filter(None, (type(driver_error).__name__, sqlstate, constraint_name(error))))


def _driver_error(error: BaseException) -> BaseException:
    """Return the driver's own error, around which SQLAlchemy wraps two others; `error` itself if it is not wrapped."""
    adapted = getattr(error, "orig", None)
    return error if adapted is None else adapted.__cause__ or adapted
