"""`cli db …`: commands that migrate the schema."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from alembic import command
from alembic.config import Config

app = typer.Typer(no_args_is_help=True)


def alembic_config() -> Config:
    """Return Alembic's configuration. It does not depend on the current folder."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "alembic").replace("%", "%%"))
    return config


@app.command()
def upgrade(revision: Annotated[str, typer.Argument(help="Target revision.")] = "head") -> None:
    """Migrate the schema up, with DATABASE_MIGRATION_URL (the owner role's) or, if that is not set, DATABASE_URL."""
    command.upgrade(alembic_config(), revision)
    print(f"The schema is at {revision}.", file=sys.stderr)


@app.command()
def downgrade(revision: Annotated[str, typer.Argument(help="Target revision, or -1 for one step.")]) -> None:
    """Migrate the schema down, with DATABASE_MIGRATION_URL (the owner role's) or, if that is not set, DATABASE_URL. The
    data in dropped tables and columns is lost."""
    command.downgrade(alembic_config(), revision)
    print(f"The schema is at {revision}.", file=sys.stderr)
