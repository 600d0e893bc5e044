"""`stratmaster-router serve`."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import uvicorn

from stratmaster_router.api.protocol import GatheringProtocol
from stratmaster_router.policy.problems import PolicyInvalid
from stratmaster_router.policy.source import PolicySource
from stratmaster_router.settings import Settings, SettingsInvalid
from stratmaster_router.telemetry.logs import configure_logs

# Longer than the idle time of the usual load balancers, so that they close first and no request meets a closing socket.
_KEEP_ALIVE = 75
_SHUTDOWN = 30


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
    configure_logs(settings.log_level)
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "loop": "uvloop",
        "http": GatheringProtocol,
        "ws": "none",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "timeout_keep_alive": _KEEP_ALIVE,
        "timeout_graceful_shutdown": _SHUTDOWN,
        "backlog": 4096,
    }
    try:
        if settings.workers == 1:
            from stratmaster_router.app import Router

            uvicorn.run(Router(settings).app, **options)
        else:
            _serve_many(settings, options)
    except PolicyInvalid as error:
        _stop("\n".join(str(problem) for problem in error.problems))
    except OSError as error:
        _stop(f"{error.filename or 'a file'} cannot be used: {error.strerror}")


def _serve_many(settings: Settings, options: dict[str, Any]) -> None:
    PolicySource(settings.policy, os.environ)  # raises here, once, and not in each worker
    with tempfile.TemporaryDirectory(prefix="stratmaster-router-") as folder:
        os.environ["ROUTER_METRICS_DIR"] = folder
        uvicorn.run("stratmaster_router.app:create_app", factory=True, workers=settings.workers, **options)


def _stop(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(1)
