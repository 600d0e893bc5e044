"""`stratmaster-router litellm-bridge`: LiteLLM in a process of its own, which the router calls on the OpenAI wire."""

import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from stratmaster_router.policy.problems import PolicyInvalid
from stratmaster_router.policy.source import PolicySource
from stratmaster_router.privacy.detect import Detector
from stratmaster_router.privacy.redact import redact
from stratmaster_router.settings import Settings, SettingsInvalid
from stratmaster_router.telemetry.logs import configure_logs
from stratmaster_router.upstream.tls import tls_trouble

NOT_INSTALLED = "LiteLLM is not installed here: pip install 'stratmaster-router[litellm]', or set ROUTER_BRIDGE_PYTHON"

# LiteLLM fetches its table of models when it is imported, and tokenizers when it counts, unless told not to.
OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",  # else it reads a file .env
    "LITELLM_LOG": "CRITICAL",
    "HF_HUB_OFFLINE": "1",
}


def litellm_bridge(
    policy: Annotated[Path | None, typer.Option(help="The policy file (ROUTER_POLICY).")] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 8087,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve the policy's providers of `wire: litellm` by LiteLLM, to callers with ROUTER_BRIDGE_TOKEN."""
    if policy is not None:
        os.environ["ROUTER_POLICY"] = str(policy)
    try:
        settings = Settings.from_environ(os.environ)
    except SettingsInvalid as error:
        sys.exit(str(error))
    if not settings.bridge_secret:
        sys.exit("ROUTER_BRIDGE_TOKEN is not set: without it anybody could use the providers' keys")
    configure_logs(settings.log_level, partial(redact, Detector()))
    os.environ.update(OFFLINE)
    try:
        from stratmaster_router.litellm_bridge.silence import quieten
    except ModuleNotFoundError as error:
        if error.name != "litellm":
            raise
        sys.exit(NOT_INSTALLED)
    from stratmaster_router.litellm_bridge.app import BridgeApp
    from stratmaster_router.litellm_bridge.mends import mend
    from stratmaster_router.litellm_bridge.providers import compile_bridge

    quieten()
    mend()
    try:
        source = PolicySource(settings.policy, os.environ, tls_trouble, compile_bridge)
    except PolicyInvalid as error:
        sys.exit("\n".join(f"{settings.policy}: {problem}" for problem in error.problems))
    with socket.socket() as listener:
        # The supervisor keeps the port by a socket that does not listen; see `supervise`.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        config = uvicorn.Config(
            BridgeApp(source, settings.bridge_secret, parent),
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=75,
            # What it has under way may take as long as the provider's timeouts; its supervisor decides whether to wait.
            timeout_graceful_shutdown=None,
        )
        uvicorn.Server(config).run(sockets=[listener])
