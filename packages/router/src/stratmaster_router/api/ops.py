"""Health, readiness and metrics. Health never depends on an upstream; readiness fails while draining."""

from collections.abc import Awaitable, Callable
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from stratmaster_router.domain.errors import Draining
from stratmaster_router.telemetry.audit import AuditLog
from stratmaster_router.upstream.breaker import State
from stratmaster_router.upstream.client import Upstreams

BridgeState = Literal["up", "down"]


class Health(BaseModel):
    """The state of this worker; `policy` is the content hash of the policy in force."""

    status: str
    policy: str


class HopStatus(BaseModel):
    """One (provider, model) as this worker knows it; `retry_after` is in seconds, 0 where it may be called."""

    provider: str
    model: str
    breaker: Literal["closed", "half_open", "open"]
    retry_after: float


class EndpointStatus(BaseModel):
    """An endpoint that is left alone: its place in the policy, the code of its failure, and for how many seconds."""

    endpoint: str
    code: str
    retry_after: float


class AuditStatus(BaseModel):
    """The last record of the audit log that this worker has written, and how many it could not write.

    Who keeps `hash` elsewhere can see by it (`logs verify --expect`) that no record up to this one was taken away.
    """

    chain: str
    seq: int
    hash: str
    lost: int


class Status(BaseModel):
    """This worker: the policy in force, and its hops, what it leaves alone, and its audit log where it has one."""

    policy: str
    draining: bool
    hops: list[HopStatus]
    parked: list[EndpointStatus]
    audit: AuditStatus | None = None


class Readiness(Health):
    """`litellm_bridge` is there where the policy has providers for it. Without it the others are served on."""

    litellm_bridge: BridgeState | None = None


def ops_routes(
    policy_hash: Callable[[], str],
    draining: Callable[[], bool],
    bridge: Callable[[], Awaitable[BridgeState | None]],
    scrape: Callable[[], bytes],
    upstreams: Upstreams,
    audit: AuditLog,
) -> APIRouter:
    """The routes that need no credential; `scrape` gives the metrics in Prometheus's text format."""
    router = APIRouter()

    @router.get("/healthz", summary="The process lives", tags=["operations"])
    async def healthz() -> Health:
        return Health(status="ok", policy=policy_hash())

    @router.get("/readyz", summary="The process takes requests", tags=["operations"], response_model_exclude_none=True)
    async def readyz() -> Readiness:
        if draining():
            raise Draining("The router is shutting down. Send requests to another replica.")
        return Readiness(status="ready", policy=policy_hash(), litellm_bridge=await bridge())

    @router.get("/internal/metrics", summary="Prometheus metrics", tags=["operations"], response_class=Response)
    def internal_metrics() -> Response:  # in a thread: there may be thousands of accounts to render
        return Response(scrape(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get(
        "/internal/status",
        summary="The state of this worker",
        tags=["operations"],
        response_model_exclude_none=True,
    )
    async def internal_status() -> Status:
        hops = [
            HopStatus(
                provider=hop.provider,
                model=hop.model,
                breaker=_STATES[hop.state],
                retry_after=round(hop.wait, 3),
            )
            for hop in upstreams.health.states()
        ]
        parked = [
            EndpointStatus(endpoint=each.place, code=each.code, retry_after=round(each.wait, 3))
            for each in upstreams.parked()
        ]
        return Status(policy=policy_hash(), draining=draining(), hops=hops, parked=parked, audit=_audit_status(audit))

    return router


def _audit_status(audit: AuditLog) -> AuditStatus | None:
    last = audit.last
    if last is None:
        return None
    return AuditStatus(chain=last.chain.decode(), seq=last.seq, hash=last.hash.decode(), lost=audit.lost)


_STATES: dict[State, Literal["closed", "half_open", "open"]] = {
    State.CLOSED: "closed",
    State.HALF_OPEN: "half_open",
    State.OPEN: "open",
}
