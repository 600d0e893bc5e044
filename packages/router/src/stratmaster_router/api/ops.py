"""Health, readiness and metrics. Health never depends on an upstream; readiness fails while draining."""

from collections.abc import Awaitable, Callable
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from stratmaster_router.domain.errors import Draining

BridgeState = Literal["up", "down"]


class Health(BaseModel):
    """The state of this worker; `policy` is the content hash of the policy in force."""

    status: str
    policy: str


class Readiness(Health):
    """`litellm_bridge` is there where the policy has providers for it. Without it the others are served on."""

    litellm_bridge: BridgeState | None = None


def ops_routes(
    policy_hash: Callable[[], str],
    draining: Callable[[], bool],
    bridge: Callable[[], Awaitable[BridgeState | None]],
    scrape: Callable[[], bytes],
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

    return router
