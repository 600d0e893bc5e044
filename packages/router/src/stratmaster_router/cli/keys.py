"""`stratmaster-router keys …`: self-service keys, in the database of ROUTER_DATABASE_URL."""

import asyncio
import getpass
import os
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from stratmaster_router.auth.credentials import PREFIX, Pepper, visible_id
from stratmaster_router.auth.store import DAY, GRACE, LIFETIME, MOST, ApiKey, NewKey
from stratmaster_router.cli.database import on_database, read_settings, stop
from stratmaster_router.domain.errors import KeyStoreUnavailable, RouterError
from stratmaster_router.policy.fields import NAME
from stratmaster_router.settings import Settings, SettingsInvalid
from stratmaster_router.storage.keys import ApiKeyStore
from stratmaster_router.telemetry.audit import AuditLog

app = typer.Typer(help="Make, show, replace and end self-service keys.", no_args_is_help=True)

T = TypeVar("T")
K = TypeVar("K", NewKey, ApiKey)

_WIDEST = 1_000  # columns of a table
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNITS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": DAY}
_duration_shape = re.compile(r"([0-9]{1,9})([smhd])").fullmatch
_TIMES = ("created_at", "expires_at", "revoked_at", "last_used_at")


class Format(StrEnum):
    """How keys are listed."""

    TABLE = "table"
    JSON = "json"


def _duration(text: str) -> int:
    """Microseconds."""
    found = _duration_shape(text)
    microseconds = int(found[1]) * _UNITS[found[2]] if found else MOST + 1
    if microseconds > MOST:
        raise typer.BadParameter("write a whole number with its unit, such as 90d, 24h, 30m or 0s; ten years at most")
    return microseconds


def _moment(text: str) -> int:
    """Microseconds since 1970."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.max
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC) + timedelta(microseconds=MOST):
        raise typer.BadParameter(
            "write a date or a time, such as 2027-02-22 or 2027-02-22T08:00:00Z, within the next ten years"
        )
    return (moment - _EPOCH) // _MICROSECOND


def _tenant(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise typer.BadParameter("not a name that a tenant of the policy can have")
    return text


def _note(text: str) -> str:
    if len(text) > 200 or not text.isprintable():
        raise typer.BadParameter("write one line of 200 characters at most")
    return text


def _id(text: str) -> str:
    """The visible id; a whole key, such as one that was found where it should not be, names its own."""
    if not text.startswith(PREFIX.decode()):
        return text
    found = visible_id(text.encode())
    if found is None:
        raise typer.BadParameter("this key is cut off or mistyped: its checksum does not match; give its visible id")
    return found


_Id = Annotated[str, typer.Argument(parser=_id, metavar="ID", help="The key's visible id, as `keys list` shows it.")]
_ExpiresIn = Annotated[
    int | None,
    typer.Option(parser=_duration, metavar="DURATION", help="How long the new key lives.", show_default="90d"),
]


@app.command()
def create(
    tenant: Annotated[str, typer.Option(parser=_tenant, metavar="NAME", help="Whose key it is.", show_default=False)],
    expires_in: _ExpiresIn = None,
    note: Annotated[
        str | None, typer.Option(parser=_note, metavar="TEXT", help="Whose it is, what for.", show_default=False)
    ] = None,
) -> None:
    """Make a key and print it, this once: the key alone on standard output, what is known of it on standard error."""
    lifetime = LIFETIME if expires_in is None else expires_in
    _print_new(_act("key.create", lambda store: store.create(tenant, lifetime, note or ""), making=True))


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's keys.", show_default=False)] = None,
    format_: Annotated[Format, typer.Option("--format", help="A table, or JSON.")] = Format.TABLE,
) -> None:
    """Show all keys by their visible ids, those that have ended included; last uses are up to two minutes late."""
    found = _do(lambda store: store.all(tenant), read_only=True)
    if format_ is Format.JSON:
        typer.echo(msgspec.json.encode([_as_json(key) for key in found]))
        return
    table = Table(box=None)
    for heading in ("id", "tenant", "state", "created", "expires", "last used", "in place of", "note"):
        table.add_column(heading)
    for key in found:
        times = [_written(time) or "–" for time in (key.created_at, key.expires_at, key.last_used_at)]
        table.add_row(key.id, key.tenant, key.state.value, *times, key.rotated_from or "–", key.note)
    Console(width=_WIDEST, markup=False, highlight=False).print(table)


@app.command()
def rotate(
    key_id: _Id,
    grace: Annotated[
        int | None,
        typer.Option(
            parser=_duration, metavar="DURATION", help="How long the old key still opens.", show_default="24h"
        ),
    ] = None,
    expires_in: _ExpiresIn = None,
) -> None:
    """Make a key in the place of ID and print it as `create` does; both open for the time of grace."""
    kept = GRACE if grace is None else grace
    lifetime = LIFETIME if expires_in is None else expires_in
    _print_new(_act("key.rotate", lambda store: store.rotate(key_id, None, kept, lifetime), making=True))


@app.command()
def revoke(key_id: _Id) -> None:
    """Let a key open nothing any more, for good; every router knows within 2 s."""
    key = _act("key.revoke", lambda store: store.revoke(key_id, None))
    print(f"The key {key.id} of tenant {key.tenant} is revoked.", file=sys.stderr)


@app.command()
def expire(
    key_id: _Id,
    at: Annotated[
        int | None,
        typer.Option(parser=_moment, metavar="TIME", help="At this date or time, UTC unless it says else."),
    ] = None,
    after: Annotated[
        int | None, typer.Option("--in", parser=_duration, metavar="DURATION", help="So long from now.")
    ] = None,
) -> None:
    """Change when a key expires, to earlier or later; without an option it expires at once."""
    if at is not None and after is not None:
        raise typer.BadParameter("give --at or --in, not both")
    key = _act("key.expire", lambda store: store.expire(key_id, None, at=at, after=after or 0))
    print(f"The key {key.id} of tenant {key.tenant} expires {_written(key.expires_at)}.", file=sys.stderr)


def _act(act: str, work: Callable[[ApiKeyStore], Awaitable[K]], *, making: bool = False) -> K:
    """Do `work` on a key and record that it is done. The audit log comes first: what it cannot take is not done."""
    audit = _audit_log(read_settings(os.environ))
    done = _do(work, making=making)
    key = done.record if isinstance(done, NewKey) else done
    audit.act(
        f"command line: {_user()}", act, key.tenant, key.rotated_from or key.id if act == "key.rotate" else key.id
    )
    asyncio.run(audit.close())
    if audit.lost:
        print("This is done, but it could not be written to the audit log.", file=sys.stderr)
    return done


def _audit_log(settings: Settings) -> AuditLog:
    target = settings.audit_log
    if target == "stdout":
        print("This is not in the audit log: ROUTER_AUDIT_LOG is a router's standard output.", file=sys.stderr)
        target = None
    try:
        return AuditLog(target, b"" if target is None else settings.audit_key(), "command line")
    except SettingsInvalid as error:
        stop(str(error))
    except OSError as error:
        stop(f"ROUTER_AUDIT_LOG: {error.filename} cannot be used: {error.strerror}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _do(work: Callable[[ApiKeyStore], Awaitable[T]], *, making: bool = False, read_only: bool = False) -> T:
    """Do `work` on the keys; the pepper is needed for `making` a key only, so that nothing keeps one from ending."""
    settings = read_settings(os.environ)
    try:
        secret = settings.pepper() if making else None
        pepper = None if secret is None else Pepper(secret)
        return on_database(settings, lambda database: work(ApiKeyStore(database, pepper)), read_only=read_only)
    except SettingsInvalid as error:
        stop(str(error))
    except KeyStoreUnavailable as error:
        stop(f"the database of ROUTER_DATABASE_URL cannot be reached: {error.reason}")
    except RouterError as error:
        stop(error.message)


def _print_new(made: NewKey) -> None:
    record = made.record
    print(made.text.value)
    print(
        f"The key {record.id} of tenant {record.tenant}, which expires {_written(record.expires_at)}. "
        "It is shown this once; only its hash is kept.",
        file=sys.stderr,
    )


def _as_json(key: ApiKey) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.structs.asdict(key)
    return {**shown, **{name: _written(shown[name]) for name in _TIMES}}


def _written(microseconds: int | None) -> str | None:
    """A time as RFC 3339 has it, to the second."""
    return None if microseconds is None else f"{_EPOCH + microseconds * _MICROSECOND:%Y-%m-%dT%H:%M:%SZ}"
