"""The composition root: settings → adapters → ASGI app. The only place that knows every part."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from typing import Any, NoReturn

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from stratmaster_router import __version__
from stratmaster_router.api.admin import admin_routes
from stratmaster_router.api.document import complete_document
from stratmaster_router.api.drain import Drain
from stratmaster_router.api.errors import error_body, error_headers, wire_error
from stratmaster_router.api.guard import Guard
from stratmaster_router.api.models import model_routes
from stratmaster_router.api.openai import OpenAIEndpoint
from stratmaster_router.api.ops import BridgeState, ops_routes
from stratmaster_router.api.tls import server_tls
from stratmaster_router.auth.authenticate import authenticate, authenticate_administrator
from stratmaster_router.auth.credentials import Pepper
from stratmaster_router.auth.issued import IssuedKeys
from stratmaster_router.auth.issuers import Issuers
from stratmaster_router.auth.jwks import LARGEST_SET
from stratmaster_router.auth.keys import KeyFolder
from stratmaster_router.domain.errors import (
    ClientCertificateRequired,
    InvalidJson,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RouterError,
)
from stratmaster_router.domain.limits import Metric
from stratmaster_router.domain.money import NANO_DOLLARS
from stratmaster_router.domain.routing import Administrator, Endpoint, Principal, Secret
from stratmaster_router.gateway.pipeline import Gateway
from stratmaster_router.gateway.settlement import Recorder, Settlement
from stratmaster_router.limits.leases import Lease
from stratmaster_router.limits.limiter import Limiter
from stratmaster_router.limits.store import StoreUnavailable
from stratmaster_router.policy.changes import changes
from stratmaster_router.policy.compile import compile_policy
from stratmaster_router.policy.problems import PolicyInvalid
from stratmaster_router.policy.providers import Bridge
from stratmaster_router.policy.source import Failed, PolicySource, Reloaded
from stratmaster_router.privacy.detect import Detector
from stratmaster_router.privacy.redact import Redactor, redact
from stratmaster_router.settings import Settings
from stratmaster_router.storage.accounts import AccountStore
from stratmaster_router.storage.database import Database, database_url
from stratmaster_router.storage.keys import ApiKeyStore
from stratmaster_router.storage.ledger import prune
from stratmaster_router.storage.schema import SchemaTooNew, prepare
from stratmaster_router.telemetry.access_log import AccessLog
from stratmaster_router.telemetry.audit import AuditLog
from stratmaster_router.telemetry.audit_records import PolicyRecord
from stratmaster_router.telemetry.logs import configure_logs
from stratmaster_router.telemetry.metrics import AccountState, Gauges, Metrics
from stratmaster_router.upstream.client import Upstreams
from stratmaster_router.upstream.fetch import fetch
from stratmaster_router.upstream.probe import is_up
from stratmaster_router.upstream.tls import TlsUnusable, tls_trouble
from stratmaster_router.upstream.watch import Watchdog

# Twice a second: a change of the policy or of a key is in force well within the 2 s that policy.md allows.
_REFRESH = 0.5
_PRUNE = 3600.0  # seconds
_FETCH = 5.0  # seconds for the keys of an issuer of assertions
_PROBE = 1.0  # seconds for the LiteLLM bridge to say that it is there
_DAY = 86_400_000_000  # microseconds

log = structlog.stdlib.get_logger("stratmaster_router")


class Router:
    """One worker's parts, wired together. `app` is the ASGI application; `redactor` stands before every log."""

    def __init__(self, settings: Settings) -> None:
        """Raises `PolicyInvalid`, `SettingsInvalid`, `TlsUnusable`, and OSError where a file cannot be read."""
        self._body_timeout = settings.body_timeout
        self._shares_metrics = settings.metrics_dir is not None
        self._supervisor = os.getppid() if settings.workers > 1 else None
        self._bridge = Bridge(settings.bridge_url or "", Secret(settings.bridge_secret))
        self._policy = PolicySource(
            settings.policy, os.environ, tls_trouble, partial(compile_policy, bridge=self._bridge)
        )
        self._detector = Detector(custom=self._policy.snapshot.patterns)
        self.redactor = Redactor(lambda: self._detector, settings.fingerprint_key())
        self._keys = KeyFolder(settings.keys_dir)
        self._issuers = Issuers(partial(fetch, limit=LARGEST_SET, within=_FETCH, trust_env=settings.trust_env))
        self._issuers.follow(self._policy.snapshot.service_accounts)
        self._administrators = KeyFolder(settings.admin_keys_dir)
        self._tls = server_tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        self._metrics = Metrics(settings.metrics_dir)
        self._access_log = AccessLog(settings.access_log)
        self._process = f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
        self._audit = AuditLog(settings.audit_log, settings.audit_key(), self._process)
        self._upstreams = Upstreams(trust_env=settings.trust_env)
        self._watchdog = Watchdog()
        self._drain = Drain(
            self._watchdog, settings.drain_delay, settings.drain_timeout, supervised=self._supervisor is not None
        )
        self._database = Database(database_url(settings.database_url))
        self._retention = settings.ledger_retention_days
        self._limiter = Limiter(AccountStore(self._database), self._process)
        secret = settings.pepper()
        pepper = None if secret is None else Pepper(secret)
        self._key_store = ApiKeyStore(self._database, pepper)
        self._issued = IssuedKeys(self._key_store, pepper, self._limiter.now)
        gateway = Gateway(lambda: self._policy.snapshot, self._limiter, self._upstreams)
        endpoints = {
            f"/v1/{endpoint.value}": OpenAIEndpoint(
                endpoint,
                gateway,
                self._watchdog,
                body_limit=settings.body_limit,
                body_timeout=settings.body_timeout,
            )
            for endpoint in Endpoint
        }
        self.fastapi = self._fastapi(endpoints)
        serve = {path: endpoint.serve for path, endpoint in endpoints.items()}
        recorder = Recorder(self._metrics, self._access_log, self._audit, self._limiter.record, self.redactor)
        look_again = self._issuers.look_again
        self.app = Guard(self.fastapi, serve, self._judge, self._judge_administrator, look_again, recorder)
        self._uncertified = Guard(self.fastapi, serve, _no_certificate, _no_certificate, look_again, recorder)

    def _judge(self, authorization: bytes | None, tenant: bytes | None) -> Principal:
        return authenticate(self._keys.ring, self._issued.ring, self._issuers.assertions, authorization, tenant)

    def _judge_administrator(self, authorization: bytes | None) -> Administrator:
        return authenticate_administrator(
            self._administrators.ring, self._keys.ring, self._issued.ring, self._issuers.assertions, authorization
        )

    def _fastapi(self, endpoints: dict[str, OpenAIEndpoint]) -> FastAPI:
        app = FastAPI(
            title="StratMaster Router",
            version=__version__,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            lifespan=self._lifespan,
            exception_handlers=_EXCEPTION_HANDLERS,
        )
        app.router.routes += [Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()]
        app.include_router(model_routes(lambda: self._policy.snapshot))
        app.include_router(
            admin_routes(self._key_store, lambda: self._policy.snapshot.tenants, self._take_note, self._body_timeout)
        )
        app.include_router(
            ops_routes(
                lambda: self._policy.snapshot.hash,
                lambda: self._drain.begun,
                self._bridge_state,
                self._scrape,
                self._upstreams,
                self._audit,
            )
        )
        describe = app.openapi
        app.openapi = _once(lambda: complete_document(describe()))  # type: ignore[method-assign]  # FastAPI's documented way
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[dict[str, Any]]:
        self._access_log.start()
        self._audit.start()
        prepared = await self._open_database()
        if prepared:
            await self._issued.refresh()
        self._limiter.start()
        self._drain.listen()
        self._announce()
        self._issuers.refresh()
        refresh = asyncio.create_task(self._refresh())
        following = asyncio.create_task(self._issued.run())
        housekeeping = asyncio.create_task(self._keep_database(prepared))
        # What lives now lives as long as the process: the collector need not walk it again, and a high threshold
        # keeps full collections out of requests. The request path makes no cycles (tests/e2e/test_memory.py).
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        try:
            yield self._lifespan_state()
        finally:
            refresh.cancel()
            following.cancel()
            housekeeping.cancel()
            await asyncio.gather(refresh, following, housekeeping, return_exceptions=True)
            await self._issuers.close()
            await self._upstreams.close()
            await self._limiter.close()
            await self._issued.write_uses()
            await self._database.close()
            await self._access_log.close()
            await self._audit.close()
            self._metrics.gauges.in_flight = 0
            self._metrics.share()
            self._drain.close()

    def _lifespan_state(self) -> dict[str, Any]:
        """What the server's protocol needs of the application."""
        state = {"head_timeout": self._body_timeout, "drain": self._drain}
        return state if self._tls is None else {**state, "tls": self._tls, "uncertified": self._uncertified}

    async def _open_database(self) -> bool:
        """Bring the database to this version's schema; whether it could be reached. Raises `SchemaTooNew`.

        One that cannot be reached does not keep the router from starting: it answers what needs no limit.
        """
        try:
            await prepare(self._database)
        except StoreUnavailable:
            return False
        return True

    async def _keep_database(self, prepared: bool) -> None:
        """Prepare the database once it can be reached, and forget the ledger's oldest rows from time to time."""
        if not prepared:
            log.error("the database of limits cannot be reached; what has a limit is refused until it can")
        try:
            while not prepared:
                await asyncio.sleep(_REFRESH)
                prepared = await self._open_database()
        except SchemaTooNew as error:
            log.error("the database of limits cannot be used", reason=str(error))
            return
        while self._retention:
            with contextlib.suppress(StoreUnavailable):
                await prune(self._database, self._limiter.now() - self._retention * _DAY)
            await asyncio.sleep(_PRUNE)

    def _announce(self) -> None:
        snapshot = self._policy.snapshot
        log.info("policy in force", policy=snapshot.hash, tenants=len(snapshot.tenants), keys=len(self._keys.ring))
        self._audit_policy("loaded")
        for warning in (*snapshot.warnings, *self._keys.ring.problems, *self._administrators.ring.problems):
            log.warning("policy warning", warning=warning)
        if not len(self._keys.ring) and not len(self._issued.ring) and not snapshot.service_accounts.accounts:
            log.warning(
                "no API key is known, so every request is refused; set ROUTER_KEYS_DIR, "
                "or ROUTER_KEY_PEPPER and create keys"
            )

    async def _bridge_state(self) -> BridgeState | None:
        """Whether the LiteLLM bridge answers; None where the policy does not need it, or there is none to ask."""
        if not self._bridge.url or all(p.wire != "litellm" for p in self._policy.snapshot.providers.values()):
            return None
        return "up" if await is_up(self._bridge.url, _PROBE) else "down"

    def _scrape(self) -> bytes:
        self._gauge()
        return self._metrics.render()

    def _gauge(self) -> None:
        """Bring up to date what is not counted but looked at."""
        now = self._limiter.now()
        last = self._audit.last
        self._metrics.audit_lost.child()[0] = self._audit.lost
        self._metrics.gauges = Gauges(
            len(self._watchdog),
            0 if last is None else last.seq,
            [_account_state(lease, now) for lease in self._limiter.leases if lease.seen_at],
            {(hop.provider, hop.model): hop.state.value for hop in self._upstreams.health.states()},
            self._issued.ring.ages(),
        )

    def _share(self) -> None:
        """Write this worker's numbers where the others find them. Blocking."""
        self._gauge()
        self._metrics.share()

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH)
            self._issuers.refresh()
            for step in (self._refresh_keys, self._refresh_policy, self._refresh_tls, self._refresh_metrics):
                # Each by itself: a revoked key must not stay valid because some other file cannot be read or written.
                try:
                    await step()
                except OSError as error:
                    log.warning("files not read; what is in force stays", file=error.filename, reason=error.strerror)
                except Exception as error:  # whatever it is, the next change must be seen
                    log.error("files not read; what is in force stays", exc_info=error)
            if self._supervisor is not None and os.getppid() != self._supervisor:
                log.error("the supervisor is gone, so this worker ends")
                os.kill(os.getpid(), signal.SIGTERM)

    async def _refresh_metrics(self) -> None:
        if self._shares_metrics:
            await asyncio.to_thread(self._share)

    async def _refresh_keys(self) -> None:
        if await asyncio.to_thread(self._keys.refresh):
            log.info("keys changed", keys=len(self._keys.ring), problems=self._keys.ring.problems)
        if await asyncio.to_thread(self._administrators.refresh):
            ring = self._administrators.ring
            log.info("keys of administrators changed", keys=len(ring), problems=ring.problems)

    async def _refresh_tls(self) -> None:
        if self._tls is None:
            return
        try:
            if await asyncio.to_thread(self._tls.refresh):
                log.info("certificates changed")
        except TlsUnusable as unusable:
            log.error("certificate change refused; the last good files stay in force", reason=str(unusable))

    async def _refresh_policy(self) -> None:
        former = self._policy.document
        result = await asyncio.to_thread(self._policy.refresh)
        if isinstance(result, Reloaded):
            self._issuers.follow(result.snapshot.service_accounts)
            self._detector = Detector(custom=self._policy.snapshot.patterns)
            log.info("policy changed", policy=self._policy.snapshot.hash, changed=result.changed)
            self._audit_policy("changed", changes=changes(former, self._policy.document), files=result.changed)
            for warning in self._policy.snapshot.warnings:
                log.warning("policy warning", warning=warning)
        elif isinstance(result, Failed):
            self._metrics.reload_failures.child()[0] += 1
            self._audit_policy(
                "refused", problems=tuple([f"line {each.line}: {each.path}" for each in result.problems])
            )
            log.error(
                "policy change refused; the last good policy stays in force",
                policy=self._policy.snapshot.hash,
                problems=[str(problem) for problem in result.problems],
            )

    def _take_note(self, administrator: Administrator, act: str, tenant: str, key: str) -> None:
        log.info("administrative act", administrator=administrator.name, act=act, tenant=tenant, key=key)
        self._audit.act(administrator.name, act, tenant, key)

    def _audit_policy(self, act: str, **details: tuple[str, ...]) -> None:
        hash_ = self._policy.snapshot.hash
        self._audit.add(PolicyRecord(datetime.now(UTC), self._process, act, hash_, **details))


def serving_app(settings: Settings) -> Guard:
    """The ASGI application of a process that serves; its log is redacted with the policy's own patterns too.

    Raises what `Router` raises.
    """
    router = Router(settings)
    configure_logs(settings.log_level, router.redactor.redact)
    return router.app


def create_app() -> Guard:
    """One worker's ASGI application, configured by the environment. Raises what `Settings` and `Router` raise.

    An invalid policy ends the process, and so do certificate files that cannot be used.
    """
    settings = Settings.from_environ(os.environ)
    configure_logs(settings.log_level, partial(redact, Detector()))
    try:
        return serving_app(settings)
    except PolicyInvalid as error:
        # A worker that is started anew while the policy is invalid; the supervisor tries again until it is mended.
        log.error("worker not started: the policy is invalid", problems=[str(problem) for problem in error.problems])
        sys.exit(1)
    except TlsUnusable as error:
        log.error("worker not started: TLS cannot be served", reason=str(error))
        sys.exit(1)


def _no_certificate(*_: bytes | None) -> NoReturn:
    """Judges in the place of the keys, for a connection whose client has shown no certificate."""
    raise ClientCertificateRequired(
        "A client certificate is required: connect with one that the router's client CA has issued."
    )


def _account_state(lease: Lease, now: int) -> AccountState:
    account = lease.account
    unit = NANO_DOLLARS if account.metric is Metric.USD else 1
    used = account.limit - lease.room(now)
    return AccountState(
        account.tenant,
        account.provider or "",
        account.metric.value,
        account.window.value,
        account.limit / unit,
        max(0, used) / unit,
        max(0, account.limit - used) / unit,
        lease.seen_at,
    )


def _once(make: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    made: list[dict[str, Any]] = []

    def get() -> dict[str, Any]:
        if not made:
            made.append(make())
        return made[0]

    return get


async def _render(request: Request, error: Exception) -> Response:
    """FastAPI's own errors, and ours from its endpoints, in the one shape."""
    known = _translate(error)
    headers = {name.decode(): value.decode() for name, value in error_headers(known)}
    if isinstance(error, HTTPException) and error.headers and "Allow" in error.headers:
        # A route knows its own methods only, and a path may have several routes.
        path = getattr(request.scope.get("route"), "path", "")
        described = request.app.openapi()["paths"].get(path)
        headers["allow"] = ", ".join(described).upper() if described else error.headers["Allow"]
    state = request.scope["state"]
    body = error_body(known, state["request_id"])
    settlement: Settlement | None = state.get("settlement")
    if settlement is not None:
        settlement.code = wire_error(known).code
    return Response(body, wire_error(known).status, headers, "application/json")


def _translate(error: Exception) -> Exception:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return InvalidJson("The request body is not valid JSON.")
        place = ".".join(str(part) for part in first["loc"])
        return InvalidRequest(f"{place}: {first['msg']}", param=place)
    if isinstance(error, HTTPException) and error.status_code == 400:
        return InvalidJson("The request body cannot be read as JSON.")
    if isinstance(error, HTTPException) and error.status_code == 404:
        return NotFound("There is no such path. The endpoints are listed in /openapi.json.")
    if isinstance(error, HTTPException) and error.status_code == 405:
        return MethodNotAllowed("This path does not take this method; the header Allow names those that it takes.")
    return error


_EXCEPTION_HANDLERS: Any = {
    RouterError: _render,
    HTTPException: _render,
    RequestValidationError: _render,
    Exception: _render,
}
