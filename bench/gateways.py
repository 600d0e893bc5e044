"""The gateways under test: how each is installed, started in front of one upstream, and called.

Each is set up to do its least work for a plain pass-through: no request logs, no retries, no keys of
its own. The router alone has everything on. That is unfair to the router, on purpose.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from . import install, upstreams
from .load import Target, chat_body, probe
from .servers import NotStarted, Server, free_port, running

_JSON = {"Content-Type": "application/json"}
_KEY = "sk-bench-0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Site:
    """Where a gateway is to be started."""

    cache: Path
    folder: Path  # scratch: configuration and logs of this start
    port: int
    upstream: int  # the upstream's port
    database: str | None = None  # the address of a PostgreSQL database, where one is wanted


@dataclass(frozen=True)
class Launch:
    """How to start and how to call a gateway."""

    command: list[str]
    health: str
    headers: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    model: str = upstreams.MODEL


@dataclass(frozen=True)
class Gateway:
    """A participant: `what` describes it in the report, `plan` installs it and says how to start it."""

    name: str
    what: str
    plan: Callable[[Site], Launch]
    streams: bool = True  # whether to measure streams, or plain answers only
    postgres: bool = False  # whether it keeps its limits in PostgreSQL
    paired: bool = False  # whether it is only compared side by side with the router without limits


@dataclass(frozen=True)
class Started:
    """A gateway that answers."""

    server: Server
    target: Target
    model: str


_POLICY = """\
version: 1
providers:
  bench: &bench
    {wire}
    base_url: http://127.0.0.1:{upstream}/v1
    api_key: {{env: BENCH_UPSTREAM_KEY}}
  spare: *bench
models:
  {model}: {{input_usd_per_mtok: 2.00, output_usd_per_mtok: 8.00, context_window: 128000}}
tenants:
  acme:
    limits: {{{limits}}}
    providers:
      bench:
        models:
          summarisation: {{default: {model}}}
      spare:
        models:
          summarisation: {{default: {model}}}
"""


# Three accounts, far from their caps; and at the cap, which is all in use as soon as one request is under way.
_LIMITS = "tpm: 1000000000, max_parallel: 100000, budget_usd_month: 1000000"
_AT_THE_CAP = "tpm: 1000000000, max_parallel: 1, budget_usd_month: 1000000"


_NATIVE = "wire: openai"
_HEDGED = "hedge: {after: 5s}"
_BRIDGED = "wire: litellm\n    litellm_provider: openai"


def _router(workers: int, limits: str, site: Site, wire: str = _NATIVE) -> Launch:
    command = install.router(site.cache, "runtime.txt") / "stratmaster-router"
    policy = site.folder / "models-policy.yaml"
    policy.write_text(_POLICY.format(upstream=site.upstream, model=upstreams.MODEL, limits=limits, wire=wire))
    keys = site.folder / "keys"
    keys.mkdir(exist_ok=True)
    (keys / "acme").write_text(f"{_KEY}\n")
    arguments = ["serve", "--policy", str(policy), "--host", "127.0.0.1", "--port", str(site.port)]
    return Launch(
        command=[str(command), *arguments, "--workers", str(workers)],
        health="/healthz",
        headers={**_JSON, "Authorization": f"Bearer {_KEY}", "X-Tenant-ID": "acme"},
        environment={
            "ROUTER_KEYS_DIR": str(keys),
            "ROUTER_ACCESS_LOG": str(site.folder / "access.log"),
            "ROUTER_DATABASE_URL": site.database or f"sqlite:///{site.folder}/router.db",
            "ROUTER_LOG_LEVEL": "warning",
            "BENCH_UPSTREAM_KEY": "upstream-key",
        },
        model="summarisation",
    )


def _bridged(site: Site) -> Launch:
    python = install.router(site.cache, "litellm.txt") / "python"
    launch = _router(1, _LIMITS, site, _BRIDGED)
    return replace(launch, environment={**launch.environment, "ROUTER_BRIDGE_PYTHON": str(python)})


def _smg(site: Site) -> Launch:
    binary = install.python_package(site.cache, "smg") / "smg"
    options = {
        "--host": "127.0.0.1",
        "--port": str(site.port),
        "--worker-urls": f"http://127.0.0.1:{site.upstream}",
        "--prometheus-host": "127.0.0.1",
        "--prometheus-port": str(free_port()),
        "--policy": "round_robin",
        "--log-level": "error",
        "--history-backend": "none",
        "--max-concurrent-requests": "0",
        "--shutdown-grace-period-secs": "1",
    }
    switches = ["retries", "circuit-breaker", "health-check", "load-monitoring", "tokenizer-autoload"]
    return Launch(
        command=[str(binary), "launch", *(part for pair in options.items() for part in pair)]
        + [f"--disable-{switch}" for switch in switches],
        health="/readiness",
        headers=_JSON,
        environment={"TOKIO_WORKER_THREADS": "2"},
    )


def _portkey(site: Site) -> Launch:
    node = shutil.which("node")
    if node is None:
        raise NotStarted("node is not installed")
    script = install.node_package(site.cache, "portkey") / "@portkey-ai/gateway/build/start-server.js"
    return Launch(
        command=[node, str(script), "--headless", f"--port={site.port}"],
        health="/",
        headers={
            **_JSON,
            "Authorization": "Bearer upstream-key",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{site.upstream}/v1",
        },
        # It refuses private hosts unless they are named.
        environment={"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
    )


def _litellm(site: Site) -> Launch:
    binary = install.python_package(site.cache, "litellm") / "litellm"
    parameters = {
        "model": f"openai/{upstreams.MODEL}",
        "api_base": f"http://127.0.0.1:{site.upstream}/v1",
        "api_key": "upstream-key",
        "input_cost_per_token": 2e-06,
        "output_cost_per_token": 8e-06,
    }
    configuration = site.folder / "litellm.json"  # JSON is YAML
    configuration.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": upstreams.MODEL, "litellm_params": parameters}],
                "litellm_settings": {"telemetry": False, "num_retries": 0, "set_verbose": False},
                "router_settings": {"num_retries": 0},
            }
        )
    )
    options = ["--host", "127.0.0.1", "--port", str(site.port), "--num_workers", "1", "--telemetry", "False"]
    return Launch(
        command=[str(binary), "--config", str(configuration), *options],
        health="/health/liveliness",
        headers=_JSON,
        environment={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_OFFLINE_MODE": "true",
            "LITELLM_LOG": "ERROR",
            # No key: it then has less to do for each request.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            "NO_DOCS": "True",
            "PATH": f"{binary.parent}:{os.environ.get('PATH', os.defpath)}",
        },
    )


def _nginx(site: Site) -> Launch:
    block = f"""  upstream bench {{ server 127.0.0.1:{site.upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{site.port} backlog=4096;
    location = /healthz {{ return 200 'ok'; }}
    location / {{
      proxy_pass http://bench;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}"""
    return Launch(command=upstreams.nginx(site.folder, "proxy", block), health="/healthz", headers=_JSON)


ROUTER = "router"
UNLIMITED = "router-unlimited"
POSTGRES = "router-postgresql"
AT_THE_CAP = "router-at-the-cap"
HEDGED = "router-hedged"
BRIDGED = "router-bridge"
ALL = [
    Gateway(ROUTER, "StratMaster Router, 1 worker, everything on", partial(_router, 1, _LIMITS)),
    Gateway(UNLIMITED, "the same without limits", partial(_router, 1, ""), paired=True),
    Gateway(
        POSTGRES,
        "the router with its limits in PostgreSQL, without durability",
        partial(_router, 1, _LIMITS),
        postgres=True,
        paired=True,
    ),
    Gateway(
        AT_THE_CAP,
        "the same with one request in flight allowed, so that each meets the cap",
        partial(_router, 1, _AT_THE_CAP),
        postgres=True,
        paired=True,
    ),
    Gateway(
        HEDGED,
        "the router with hedging on, and a second provider that is never needed",
        partial(_router, 1, _LIMITS, wire=_HEDGED),
        paired=True,
    ),
    Gateway("router-2w", "StratMaster Router, 2 workers, everything on", partial(_router, 2, _LIMITS), streams=False),
    Gateway(BRIDGED, "the router with LiteLLM behind it (`wire: litellm`), everything on", _bridged, streams=False),
    Gateway("smg", f"{install.PYPI['smg'][0]} (Rust, 2 threads), no policy", _smg),
    Gateway("portkey", f"{install.NPM['portkey']} (Node), no policy", _portkey),
    Gateway("litellm", f"{install.PYPI['litellm'][0]} (Python, 1 worker), no key", _litellm),
    Gateway("nginx", "nginx as a plain proxy, 1 worker: what the machine allows", _nginx),
]


@contextlib.contextmanager
def started(
    gateway: Gateway,
    upstream: Server,
    cache: Path,
    scratch: Path,
    *,
    stream: bool = False,
    database: str | None = None,
) -> Iterator[Started]:
    """Install if need be, start in front of `upstream`, and wait until a real request is answered.

    Raises NotStarted, with the reason.
    """
    folder = scratch / gateway.name
    folder.mkdir(parents=True, exist_ok=True)
    site = Site(cache, folder, free_port(), upstream.port, database)
    launch = gateway.plan(site)
    target = Target(site.port, launch.headers)
    # A gateway that parses answers would fail a plain request to an upstream that streams.
    body = chat_body(launch.model, 300, stream_as="probe" if stream else None)
    with running(
        launch.command,
        port=site.port,
        health=launch.health,
        log=folder / "server.log",
        environment=launch.environment,
    ) as server:
        deadline = time.monotonic() + 20
        while problem := probe(target, body, timeout=5):
            if time.monotonic() > deadline:
                raise NotStarted(f"healthy, but {problem}")
            time.sleep(0.1)
        yield Started(server, target, launch.model)
