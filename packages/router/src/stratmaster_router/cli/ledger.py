"""`stratmaster-router ledger …`: what was spent, from the database of ROUTER_DATABASE_URL. Reads only."""

import asyncio
import csv
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from stratmaster_router.domain.money import NANO_DOLLARS
from stratmaster_router.limits.store import StoreUnavailable
from stratmaster_router.settings import Settings, SettingsInvalid
from stratmaster_router.storage.engine import DatabaseUrlInvalid, database_url, make_engine
from stratmaster_router.storage.ledger import COLUMNS, rows, summary
from stratmaster_router.storage.schema import HEAD, revision

app = typer.Typer(help="What was spent, by whom, on what.", no_args_is_help=True)

T = TypeVar("T")
Page = Sequence[Mapping[str, Any]]


class Format(StrEnum):
    """How rows are written."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write a date or a time, such as 2026-11-24 or 2026-11-24T08:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


_Tenant = Annotated[str | None, typer.Option(help="Only this tenant's rows.")]
_Since = Annotated[datetime | None, typer.Option(parser=_time, help="From this date or time on, UTC.", metavar="TIME")]
_Until = Annotated[datetime | None, typer.Option(parser=_time, help="Before this date or time, UTC.", metavar="TIME")]


@app.command("summary")
def show_summary(
    tenant: _Tenant = None,
    since: _Since = None,
    until: _Until = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with money in nano-dollars.")] = False,
) -> None:
    """Requests, tokens and money by tenant, provider and model. A presumed cost is of a process that died."""
    found = _read(lambda engine: summary(engine, tenant, since, until))
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    table = Table(box=None)
    for heading in ("tenant", "provider", "model"):
        table.add_column(heading)
    sums = ("requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost_nanousd", "presumed_nanousd")
    for heading in ("requests", "input", "cached", "output", "US dollars", "presumed", "estimated", "unpriced"):
        table.add_column(heading, justify="right")
    names = (*sums, "estimated", "unpriced")
    for row in found:
        table.add_row(*(row[name] or "–" for name in ("tenant", "provider", "model")), *_cells(row, names))
    table.add_section()
    table.add_row("total", "", "", *_cells({name: sum(row[name] for row in found) for name in names}, names))
    Console(soft_wrap=True).print(table)


def _cells(row: Mapping[str, int], names: Sequence[str]) -> list[str]:
    return [_dollars(row[name]) if name.endswith("_nanousd") else str(row[name]) for name in names]


def _dollars(nanousd: int) -> str:
    whole, part = divmod(abs(nanousd), NANO_DOLLARS)
    return f"{'-' if nanousd < 0 else ''}{whole}.{part:09d}"


@app.command()
def export(
    format_: Annotated[Format, typer.Option("--format", help="How to write the rows.")] = Format.CSV,
    tenant: _Tenant = None,
    since: _Since = None,
    until: _Until = None,
    output: Annotated[Path | None, typer.Option(help="A file instead of standard output.")] = None,
) -> None:
    """Every row, in the order in which it was written."""

    async def run(engine: AsyncEngine) -> None:
        pages = rows(engine, tenant, since, until)
        if output is None:
            await _WRITERS[format_](pages, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            with output.open("wb") as file:
                await _WRITERS[format_](pages, file)

    try:
        _read(run)
    except BrokenPipeError:
        # The reader has seen enough. What Python still wants to flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _stop(f"{error.filename or 'the output'} cannot be written: {error.strerror}")


async def _write_csv(pages: AsyncIterator[Page], file: IO[bytes]) -> None:
    def line(values: Sequence[Any]) -> bytes:
        writer = csv.writer(lines := _Lines())
        writer.writerow(values)
        return lines.text.encode()

    file.write(line(COLUMNS))
    async for page in pages:
        for row in page:
            file.write(line([_plain(name, row[name]) for name in COLUMNS]))


class _Lines:
    """What a csv writer has written last."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text = text


def _plain(name: str, value: Any) -> Any:
    if name == "time":
        return _shown_time(value)
    return str(value).lower() if isinstance(value, bool) else value


def _shown_time(microseconds: int) -> str:
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"


async def _write_jsonl(pages: AsyncIterator[Page], file: IO[bytes]) -> None:
    encode = msgspec.json.Encoder().encode
    async for page in pages:
        for row in page:
            file.write(encode({**{name: row[name] for name in COLUMNS}, "time": _shown_time(row["time"])}) + b"\n")


async def _write_parquet(pages: AsyncIterator[Page], file: IO[bytes]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts = {"request_id", "tenant", "task", "provider", "model", "policy"}
    kinds = {"time": pa.timestamp("us", tz="UTC"), "estimated": pa.bool_(), "presumed": pa.bool_()}
    schema = pa.schema([(name, pa.string() if name in texts else kinds.get(name, pa.int64())) for name in COLUMNS])
    with parquet.ParquetWriter(file, schema) as writer:
        async for page in pages:
            writer.write_table(pa.Table.from_pylist([dict(row) for row in page], schema=schema))


_WRITERS: Mapping[Format, Callable[[AsyncIterator[Page], IO[bytes]], Awaitable[None]]] = {
    Format.CSV: _write_csv,
    Format.JSONL: _write_jsonl,
    Format.PARQUET: _write_parquet,
}


def _read(work: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    """Do `work` on the database, which must be there and of this version."""
    try:
        settings = Settings.from_environ(os.environ)
        url = database_url(settings.database_url)
    except (SettingsInvalid, DatabaseUrlInvalid) as error:
        _stop(str(error))
    if url.drivername.startswith("sqlite") and not Path(url.database or "").is_file():
        _stop(f"there is no database at {url.database}: set ROUTER_DATABASE_URL to the router's")

    async def run() -> T:
        engine = make_engine(url)
        try:
            found = await revision(engine)
            if found != HEAD:
                _stop(f"the database has schema {found or 'none'}, and this version reads {HEAD}: run its own version")
            return await work(engine)
        finally:
            await engine.dispose()

    try:
        return asyncio.run(run())
    except StoreUnavailable:
        _stop("the database cannot be reached: see ROUTER_DATABASE_URL")


def _stop(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(1)
