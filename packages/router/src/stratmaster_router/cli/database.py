"""What the commands over the database of ROUTER_DATABASE_URL share: it must be there, and of this version."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

import typer

from stratmaster_router.limits.store import StoreUnavailable
from stratmaster_router.settings import Settings, SettingsInvalid
from stratmaster_router.storage.database import Database, DatabaseUrlInvalid, database_url
from stratmaster_router.storage.schema import HEAD, revision

T = TypeVar("T")


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings, or the end of the program with what is wrong with them."""
    try:
        return Settings.from_environ(environ)
    except SettingsInvalid as error:
        stop(str(error))


def on_database(settings: Settings, work: Callable[[Database], Awaitable[T]], *, read_only: bool) -> T:
    """Do `work` on the database; where it cannot be used, the program ends and says why."""
    try:
        url = database_url(settings.database_url)
    except DatabaseUrlInvalid as error:
        stop(f"ROUTER_DATABASE_URL: {error}")
    if url.drivername == "sqlite" and not Path(url.database or "").is_file():
        stop(f"there is no database at {url.database}: set ROUTER_DATABASE_URL to the router's")

    async def run() -> T:
        database = Database(url, read_only=read_only)
        try:
            _check(await revision(database))
            return await work(database)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except StoreUnavailable as error:
        stop(f"the database of ROUTER_DATABASE_URL cannot be read: {error}")


def _check(found: str | None) -> None:
    if found is None:
        stop("the database of ROUTER_DATABASE_URL is empty: no router has used it yet")
    if found != HEAD:
        stop(
            f"the database is at revision {found}, and this version reads {HEAD}: use the version that serves from it "
            "(an older database is brought up to date by `serve`)"
        )


def stop(message: str) -> NoReturn:
    """End the program with exit code 1 and `message` on standard error."""
    print(message, file=sys.stderr)
    raise typer.Exit(1)
