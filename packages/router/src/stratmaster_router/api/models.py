"""`/v1/models`: the tasks and models of the caller's tenant, and no others."""

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from stratmaster_router.api.guard import Visit
from stratmaster_router.domain.errors import Refused
from stratmaster_router.domain.routing import Decision, Refusal
from stratmaster_router.policy.snapshot import Snapshot


class Model(BaseModel):
    """A task or a model that the tenant may ask for. `created` is 0: a policy does not say when."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str


class ModelList(BaseModel):
    """All of a tenant's tasks and models."""

    object: Literal["list"] = "list"
    data: list[Model]


def model_routes(snapshot: Callable[[], Snapshot]) -> APIRouter:
    """The routes over the current policy snapshot."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    def allowed(request: Request) -> list[Model]:
        visit: Visit = request.scope["state"]["visit"]
        tenant = snapshot().tenants.get(visit.caller.principal.tenant)
        return [] if tenant is None else [Model(id=name, owned_by=owner) for name, owner in tenant.listing]

    @router.get("/models", summary="List the tenant's tasks and models")
    async def list_models(request: Request) -> ModelList:
        return ModelList(data=allowed(request))

    @router.get("/models/{model:path}", summary="One task or model of the tenant")
    async def get_model(model: str, request: Request) -> Model:
        for found in allowed(request):
            if found.id == model:
                return found
        decision = Decision(snapshot().hash, None, (), Refusal.MODEL_NOT_FOUND, ())
        raise Refused("This tenant has no such task or model; GET /v1/models lists them.", decision, param="model")

    return router
