"""`stratmaster-router serve`."""

import asyncio
import contextlib
import math
import os
import signal
import socket
import sys
import tempfile
import time
from functools import partial
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Annotated, Any, NoReturn

import structlog
import typer
import uvicorn
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from stratmaster_router.api.drain import END_AT_ONCE
from stratmaster_router.api.protocol import RouterProtocol
from stratmaster_router.api.tls import over_tls, server_tls
from stratmaster_router.auth.keys import KeyFolder
from stratmaster_router.cli.supervise import supervised_bridge
from stratmaster_router.limits.store import StoreUnavailable
from stratmaster_router.policy.problems import PolicyInvalid
from stratmaster_router.policy.source import PolicySource
from stratmaster_router.privacy.detect import Detector
from stratmaster_router.privacy.redact import redact
from stratmaster_router.settings import Settings, SettingsInvalid
from stratmaster_router.storage.database import Database, DatabaseUrlInvalid, database_url
from stratmaster_router.storage.schema import SchemaTooNew, prepare
from stratmaster_router.telemetry.access_log import AccessLog
from stratmaster_router.telemetry.audit import AuditLog
from stratmaster_router.telemetry.logs import configure_logs
from stratmaster_router.upstream.tls import TlsUnusable, tls_trouble

log = structlog.stdlib.get_logger("stratmaster_router")

_BACKLOG = 4096
_START = 60.0  # seconds for a worker to be able to answer its supervisor
_ENDED_BY_ITSELF = 10  # seconds in which every request has ended once api/drain.py has interrupted it

_OPTIONS: dict[str, Any] = {
    "loop": "uvloop",
    "ws": "none",
    "lifespan": "on",
    "log_config": None,
    "access_log": False,
    "proxy_headers": False,
    "server_header": False,
    # Longer than the idle time of the usual load balancers: they close first, and no request meets a closing socket.
    "timeout_keep_alive": 75,
    "backlog": _BACKLOG,
}


def serve(
    policy: Annotated[Path | None, typer.Option(help="The policy file (ROUTER_POLICY).")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on (ROUTER_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on (ROUTER_PORT).")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes (ROUTER_WORKERS).")] = None,
) -> None:
    """Serve the gateway. Every setting is an environment variable ROUTER_…; the options here win over them."""
    for name, value in (("POLICY", policy), ("HOST", host), ("PORT", port), ("WORKERS", workers)):
        if value is not None:
            os.environ[f"ROUTER_{name}"] = str(value)
    try:
        settings = Settings.from_environ(os.environ)
    except SettingsInvalid as error:
        _stop(str(error))
    configure_logs(settings.log_level, partial(redact, Detector()))
    try:
        listener = _listen(settings)
        _prepare_database(settings, listener)
        # uvicorn raises the signal again once it has shut down, which must not look like a crash.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with contextlib.suppress(KeyboardInterrupt), supervised_bridge(settings) as addressed:
            if settings.workers == 1:
                _serve_one(addressed, listener)
            else:
                _serve_many(addressed, listener)
    except PolicyInvalid as error:
        _stop(
            "\n".join(f"{problem}" if problem.path else f"{settings.policy}: {problem}" for problem in error.problems)
        )
    except SettingsInvalid as error:
        _stop(str(error))
    except DatabaseUrlInvalid as error:
        _stop(f"ROUTER_DATABASE_URL: {error}")
    except TlsUnusable as error:
        _stop(f"TLS cannot be served: {error}")
    except OSError as error:
        _stop(f"{error.filename or 'a file'} cannot be used: {error.strerror}")


def _prepare_database(settings: Settings, listener: socket.socket) -> None:
    """Migrate once, before there are workers. A database that cannot be reached now may be reached later.

    In a process of its own: what migrating loads (13 MB) would stay for as long as this one runs.
    """
    database = Database(database_url(settings.database_url))

    async def run() -> None:
        try:
            await prepare(database)
        finally:
            await database.close()

    def migrate() -> None:
        # Should this process outlive its parent, it must not keep the address from the next one.
        listener.close()
        try:
            asyncio.run(run())
        except StoreUnavailable:
            pass
        except SchemaTooNew as error:
            _stop(f"ROUTER_DATABASE_URL: {error}")

    migration = get_context("fork").Process(target=migrate)
    migration.start()
    migration.join()
    if migration.exitcode:
        sys.exit(1)


def _listen(settings: Settings) -> socket.socket:
    """Bind first: an address that cannot be had ends the program before anything else has begun."""
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{settings.host}:{settings.port}") from None
    listener.set_inheritable(True)
    return listener


def _serve_one(settings: Settings, listener: socket.socket) -> None:
    from stratmaster_router.app import serving_app

    server = uvicorn.Server(uvicorn.Config(serving_app(settings), **_options(settings)))
    _announce(settings, listener)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(1)


def _serve_many(settings: Settings, listener: socket.socket) -> None:
    # These raise here, once, and not in each worker.
    PolicySource(settings.policy, os.environ, tls_trouble)
    KeyFolder(settings.keys_dir)
    KeyFolder(settings.admin_keys_dir)
    settings.pepper()
    AccessLog(settings.access_log)
    asyncio.run(AuditLog(settings.audit_log, settings.audit_key(), "").close())
    server_tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    with tempfile.TemporaryDirectory(prefix="stratmaster-router-") as folder:
        os.environ["ROUTER_METRICS_DIR"] = folder
        config = uvicorn.Config(
            "stratmaster_router.app:create_app", factory=True, workers=settings.workers, **_options(settings)
        )
        _announce(settings, listener)
        _Supervisor(config, sockets=[listener]).run()


def _announce(settings: Settings, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    log.info("listening", host=host, port=port, tls=settings.tls_cert is not None, workers=settings.workers)


def _options(settings: Settings) -> dict[str, Any]:
    return {
        **_OPTIONS,
        "http": RouterProtocol if settings.tls_cert is None else over_tls,
        # The server's own patience is for what should not happen.
        "timeout_graceful_shutdown": math.ceil(settings.drain_timeout) + _ENDED_BY_ITSELF,
    }


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which also hears a second signal while it waits for its workers to drain.

    It kills a worker that does not answer within 5 seconds. One that is starting cannot answer before it has imported
    what it needs; on a busy machine, or with a part of a core, that takes longer, and workers would be killed and
    started for ever. So they are asked once they have had the time.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._since: dict[Process, float] = {}

    def keep_subprocess_alive(self) -> None:
        now = time.monotonic()
        self._since = {each: self._since.get(each, now) for each in self.processes}
        starting = [each for each, since in self._since.items() if now - since < _START and each.process.is_alive()]
        self.processes = [each for each in self.processes if each not in starting]
        super().keep_subprocess_alive()
        self.processes += starting

    def handle_int(self) -> None:
        self.handle_term()

    def handle_term(self) -> None:
        if self.should_exit.is_set():
            self.signal_queue.append(signal.SIGTERM)  # the second in one look: left for `join_all`
        super().handle_term()

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()  # else clients would be let in, and served by nobody, once the workers have closed theirs
        super().terminate_all()

    def join_all(self) -> None:
        while alive := [each.process for each in self.processes if each.process.is_alive()]:
            if {signal.SIGTERM, signal.SIGINT} & {*self.signal_queue}:
                self.signal_queue.clear()
                for process in alive:
                    assert process.pid is not None  # it was started
                    os.kill(process.pid, END_AT_ONCE)
            connection.wait([process.sentinel for process in alive], timeout=0.1)
        super().join_all()


def _stop(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(1)
