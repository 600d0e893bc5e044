"""`stratmaster-router logs …`: check the chain of an audit log; look for personal data in any log. Reads only."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from stratmaster_router.privacy.detect import Detector
from stratmaster_router.privacy.scan import places
from stratmaster_router.settings import Settings, SettingsInvalid
from stratmaster_router.telemetry.audit_file import read_head
from stratmaster_router.telemetry.chain import Seal
from stratmaster_router.telemetry.verify import LONGEST, Finding, Verifier

app = typer.Typer(help="Check audit logs; look for personal data in logs.", no_args_is_help=True)

_Files = Annotated[list[Path], typer.Argument(help="The files, the oldest first.", show_default=False)]


def _hash(text: str) -> bytes:
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise typer.BadParameter("write the hash of a record: 64 of 0-9 and a-f")
    return text.encode()


@app.command()
def verify(
    files: _Files,
    expect: Annotated[
        list[str] | None,
        typer.Option(help="The hash of a record that must be there; may be given again.", metavar="HASH"),
    ] = None,
) -> None:
    """Check the chain of audit logs: a summary, or every break with its place and exit code 1.

    The key of the chain is made from ROUTER_KEY_PEPPER or ROUTER_KEY_PEPPER_FILE, as the router makes it.
    """
    try:
        seal = Seal(Settings.from_environ(os.environ).audit_key())
    except SettingsInvalid as error:
        _stop(str(error))
    wanted = {_hash(text): "a record that --expect names" for text in expect or ()}
    try:
        # Before the files: a router that runs goes on writing.
        head = read_head(files[-1])
        if head is not None:
            wanted.setdefault(
                head.hash, f"record {head.seq} of chain {head.chain.decode()}, which {files[-1]}.head names"
            )
        verifier = Verifier(seal, set(wanted))
        broken = sum([_tell(finding) for finding in _verified(verifier, files)])
    except OSError as error:
        _stop(f"{error.filename} cannot be read: {error.strerror}")
    for what in [what for hash_, what in wanted.items() if hash_ in verifier.wanted]:
        broken += 1
        typer.echo(f"{files[-1]}: {what}, is in none of these files: records are missing at their end", err=True)
    for name, chain in verifier.chains.items():
        after = "" if chain.first == 1 else f"; what came before record {chain.first} is not in these files"
        last = chain.last
        typer.echo(f"chain {name.decode()}: records {chain.first} to {last.seq}, the last {last.hash.decode()}{after}")
    if broken and not verifier.intact:
        typer.echo("no record is right: was the log written with another ROUTER_KEY_PEPPER, or without one?", err=True)
    if not verifier.chains and not broken:
        typer.echo("no record in these files")
    if verifier.chains and not seal.keyed:
        typer.echo("checked without a key: who can write the file can also make a chain; see ROUTER_KEY_PEPPER")
    typer.echo(f"{broken} broken" if broken else "nothing is broken", err=bool(broken))
    raise typer.Exit(1 if broken else 0)


def _verified(verifier: Verifier, files: list[Path]) -> Iterator[Finding]:
    for path in files:
        verifier.open(str(path))
        with path.open("rb") as file:
            while line := file.readline(LONGEST):
                yield from verifier.line(line)
        yield from verifier.close()


def _tell(finding: Finding) -> bool:
    record = "the line" if finding.seq is None else f"record {finding.seq}"
    note = "" if finding.broken else "note: "
    typer.echo(f"{finding.file}:{finding.line}: {note}{record} {finding.text}", err=finding.broken)
    return finding.broken


@app.command()
def scan(files: _Files) -> None:
    """Look for personal data and secrets in logs, JSON or text; exit code 1 with their places, never their values."""
    detector = Detector()
    lines = found = 0
    try:
        for path in files:
            with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
                number = 0
                while line := file.readline(_LONGEST_SCANNED):
                    number += 1
                    for place in places(line.removesuffix("\n"), detector):
                        found += 1
                        typer.echo(f"{path}:{number}:{place.column}: {place.field or 'text'}: {place.kind}")
                lines += number
    except OSError as error:
        _stop(f"{error.filename} cannot be read: {error.strerror}")
    typer.echo(f"{lines} lines: {found or 'nothing'} found", err=bool(found))
    raise typer.Exit(1 if found else 0)


_LONGEST_SCANNED = 16 * 1024 * 1024  # characters; a longer line is searched in parts


def _stop(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(1)
