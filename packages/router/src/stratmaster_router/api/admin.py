"""The admin API: the self-service keys of a tenant. The guard has put an `Administrator` into the scope's state."""

import asyncio
from collections.abc import Callable, Container, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from stratmaster_router.api.body import check_media_type
from stratmaster_router.api.guard import Message
from stratmaster_router.auth.store import GRACE, LIFETIME, MOST, ApiKey, KeyState, KeyStore, NewKey
from stratmaster_router.domain.errors import NotFound, RequestTimeout, RequestTooLarge, TenantMismatch
from stratmaster_router.domain.routing import Administrator
from stratmaster_router.gateway.settlement import Settlement

Act = Callable[[Administrator, str, str, str], None]
"""Takes note of what was done: by whom, what (such as `key.create`), to which tenant, to the key of which id."""

_SECOND = 1_000_000
_BODY_LIMIT = 64 * 1024  # bytes
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_ANSWERS: dict[int | str, dict[str, Any]] = {
    400: {"description": "A field is missing, unknown or out of bounds; `param` names it"},
    401: {"description": "No credential, or none that is known"},
    403: {"description": "A tenant's credential, or an administrator of other tenants"},
    404: {"description": "The policy has no such tenant, or the tenant no such key"},
    503: {"description": "The database of keys cannot be reached"},
}
_NOT_LIVE: dict[int | str, dict[str, Any]] = {409: {"description": "The key is revoked, expired or rotated already"}}
_MAKES: dict[int | str, dict[str, Any]] = {501: {"description": "No pepper is set, or another than that of the keys"}}


def _number(value: object) -> object:
    # As JSON has it: 5.0 is 5, and neither true nor "5" is a number.
    if isinstance(value, bool | str):
        raise ValueError("not a number")
    return value


# Last, so that the bounds before it stand in the document.
_NUMBER = BeforeValidator(_number)
_Lifetime = Annotated[
    int,
    Field(ge=1, le=MOST // _SECOND, description="Seconds from now until the new key expires; 90 days by default."),
    _NUMBER,
]


class CreateKey(BaseModel):
    """What a new key is to be."""

    model_config = ConfigDict(extra="forbid")

    expires_in: _Lifetime = LIFETIME // _SECOND
    note: Annotated[
        str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$", description="For people: whose key it is, what for.")
    ] = ""


class RotateKey(BaseModel):
    """How a key is replaced."""

    model_config = ConfigDict(extra="forbid")

    grace: Annotated[
        int,
        Field(ge=0, le=MOST // _SECOND, description="Seconds for which the old key still opens; a day by default."),
        _NUMBER,
    ] = GRACE // _SECOND
    expires_in: _Lifetime = LIFETIME // _SECOND


class ChangeKey(BaseModel):
    """What of a key may be changed."""

    model_config = ConfigDict(extra="forbid")

    expires_in: Annotated[
        int,
        Field(ge=0, le=MOST // _SECOND, description="Seconds from now until the key expires; 0 is at once."),
        _NUMBER,
    ]


class Key(BaseModel):
    """A key as it may be shown. `last_used_at` is up to two minutes late."""

    id: str
    tenant: str
    note: str
    state: KeyState
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    rotated_from: str | None
    last_used_at: datetime | None


class CreatedKey(Key):
    """A new key. `key` is shown in this answer only."""

    key: str


class KeyList(BaseModel):
    """Every key that the tenant ever had, in the order of time."""

    object: Literal["list"] = "list"
    data: list[Key]


def admin_routes(store: KeyStore, tenants: Callable[[], Container[str]], act: Act, body_timeout: float) -> APIRouter:
    """The routes over `store`; `tenants` gives those of the current policy, `body_timeout` is in seconds."""
    router = APIRouter(
        prefix="/admin/v1/tenants/{tenant}/keys",
        tags=["administration"],
        route_class=_bounded(body_timeout),
        responses=_ANSWERS,
    )

    async def permitted(request: Request, response: Response, tenant: str) -> Administrator:
        """The administrator, who may act for `tenant`."""
        state = request.scope["state"]
        administrator: Administrator = state["administrator"]
        if administrator.tenants is not None and tenant not in administrator.tenants:
            raise TenantMismatch("This administrator may not act for this tenant.")
        if tenant not in tenants():
            raise NotFound("The policy has no tenant of this name.")
        settlement: Settlement = state["settlement"]
        settlement.tenant = tenant
        response.headers["cache-control"] = "no-store"
        return administrator

    permission = Depends(permitted)
    visible = Path(pattern="^[0-9a-z]{12}$", description="The visible id of a key.")

    @router.get("", summary="List the tenant's keys", dependencies=[permission])
    async def list_keys(tenant: str) -> KeyList:
        return KeyList(data=[Key.model_validate(_shown(key)) for key in await store.all(tenant)])

    @router.post("", summary="Create a key", status_code=201, responses=_MAKES)
    async def create_key(
        tenant: str, who: Annotated[Administrator, permission], wish: CreateKey | None = None
    ) -> CreatedKey:
        wish = wish or CreateKey()
        made = await store.create(tenant, wish.expires_in * _SECOND, wish.note)
        act(who, "key.create", tenant, made.record.id)
        return _created(made)

    @router.post(
        "/{key_id}/rotate", summary="Replace a key by a new one", status_code=201, responses={**_NOT_LIVE, **_MAKES}
    )
    async def rotate_key(
        tenant: str,
        key_id: Annotated[str, visible],
        who: Annotated[Administrator, permission],
        wish: RotateKey | None = None,
    ) -> CreatedKey:
        wish = wish or RotateKey()
        made = await store.rotate(key_id, tenant, wish.grace * _SECOND, wish.expires_in * _SECOND)
        act(who, "key.rotate", tenant, key_id)
        return _created(made)

    @router.patch("/{key_id}", summary="Change when a key expires", responses=_NOT_LIVE)
    async def change_key(
        tenant: str, key_id: Annotated[str, visible], who: Annotated[Administrator, permission], wish: ChangeKey
    ) -> Key:
        changed = await store.expire(key_id, tenant, after=wish.expires_in * _SECOND)
        act(who, "key.expire", tenant, key_id)
        return Key.model_validate(_shown(changed))

    @router.delete("/{key_id}", summary="Revoke a key, for good")
    async def revoke_key(
        tenant: str, key_id: Annotated[str, visible], who: Annotated[Administrator, permission]
    ) -> Key:
        revoked = await store.revoke(key_id, tenant)
        act(who, "key.revoke", tenant, key_id)
        return Key.model_validate(_shown(revoked))

    return router


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "note": key.note,
        "state": key.state,
        "created_at": _moment(key.created_at),
        "expires_at": _moment(key.expires_at),
        "revoked_at": _moment(key.revoked_at),
        "rotated_from": key.rotated_from,
        "last_used_at": _moment(key.last_used_at),
    }


def _created(made: NewKey) -> CreatedKey:
    return CreatedKey.model_validate({**_shown(made.record), "key": made.text.value})


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def _bounded(seconds: float) -> type[APIRoute]:
    """A route that reads its body within bounds before FastAPI does, which knows none of time."""

    class Bounded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def bounded(request: Request) -> Response:
                body = await _read(request, seconds)
                if body:
                    check_media_type(dict(request.scope["headers"]))

                async def replay() -> Message:
                    return {"type": "http.request", "body": body, "more_body": False}

                return await handle(Request(request.scope, replay))

            return bounded

    return Bounded


async def _read(request: Request, seconds: float) -> bytes:
    """The body. Raises `RequestTooLarge`, and `RequestTimeout` also where its client has gone."""
    body = bytearray()
    more = True
    try:
        async with asyncio.timeout(seconds):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise TimeoutError
                body += message.get("body", b"")
                if len(body) > _BODY_LIMIT:
                    raise RequestTooLarge(f"The body is larger than the limit of {_BODY_LIMIT} bytes.")
                more = message.get("more_body", False)
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {seconds:g} seconds.") from None
    return bytes(body)
