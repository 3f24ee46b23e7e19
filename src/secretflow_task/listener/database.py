"""The database of the listener: SQLite in the state folder, or PostgreSQL for many users."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import quote

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import DatabaseUnavailable
from secretflow_task.listener.tables import Base

_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_MIGRATIONS = Path(__file__).with_name("migrations")
# The number of an advisory lock of PostgreSQL: any, but always the same.
_MIGRATION_LOCK = 0x5F_77_6F_72
_ALEMBIC = threading.Lock()  # its context is a global of the process
_BUSY_SECONDS = 5.0  # how long SQLite waits for another writer
_POSTGRESQL = {
    # A server that hangs, or that the network hides, must not hang the listener.
    "connect_timeout": 10,
    "tcp_user_timeout": 30_000,
    "options": "-c statement_timeout=30000",
    # Else a database in SQL_ASCII, as initdb makes it where the locale is C, gives bytes for texts.
    "client_encoding": "utf8",
}


class Database:
    """A pool of connections, until the block ends.

    Args:
        url: `sqlite:///...` or `postgresql://...`.
        read_only: only `reading` is used; a file that is not there is not made.

    Raises:
        DatabaseUnavailable: the driver of PostgreSQL is not installed, or the file cannot be
            written.
    """

    def __init__(self, url: str | URL, read_only: bool = False) -> None:
        parsed = make_url(url)
        try:
            self.engine = (
                _sqlite(parsed, read_only) if parsed.drivername == "sqlite" else _postgresql(parsed)
            )
        except ImportError as error:
            hint = "Install the extra `postgresql`: pip install 'secretflow-worker[postgresql]'."
            raise DatabaseUnavailable(hint=hint) from error
        except OSError as error:
            hint = "Check SFWORKER_DATABASE_URL, or SFWORKER_STATE_DIR where it is not set."
            raise DatabaseUnavailable("The database file cannot be written.", hint=hint) from error

    @staticmethod
    def of(settings: Settings, read_only: bool = False) -> Database:
        """The database that the settings name."""
        default = URL.create(
            "sqlite", database=str(settings.state_dir.absolute() / "status.sqlite")
        )
        return Database(settings.database_url.get_secret_value() or default, read_only)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.engine.dispose()

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.engine.dialect.name

    def upgrade(self) -> None:
        """Make the tables, or bring them up to date; others may do so at the same time.

        Raises:
            sqlalchemy.exc.DBAPIError: the database is away.
        """
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        # On SQLite a transaction is a lock already.
        with _ALEMBIC, self.engine.begin() as connection:
            if self.kind == "postgresql":
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK}
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            # Not by a migration: the version before refuses a database with one that it does not
            # know, and can do without this table.
            Base.metadata.tables["listener_group"].create(connection, checkfirst=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with.

        Raises:
            DatabaseUnavailable: there is no database, or none that fits.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise DatabaseUnavailable(detail=str(error)) from error


def upsert(engine: Connection | Engine, table: Table) -> Any:
    """An INSERT that can be told what to do about a row that is there already."""
    return _INSERT[engine.dialect.name](table)


def _postgresql(url: URL) -> Engine:
    return create_engine(url.set(drivername="postgresql+psycopg"), connect_args=_POSTGRESQL)


def _sqlite(url: URL, read_only: bool) -> Engine:
    path = Path(str(url.database)).absolute()
    if not read_only:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # results are nobody else's business
    engine = create_engine(
        URL.create(
            "sqlite", database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"}
        ),
        connect_args={"timeout": _BUSY_SECONDS},
    )
    # A writer takes its lock when it begins: one that reads first can be refused it later, without
    # a wait.
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # else Python's module begins by itself, too late
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            # What is acknowledged must survive the machine.
            connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
