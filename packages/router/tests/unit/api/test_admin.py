"""Administrators of some tenants only, as JWTs make them, and the note that is taken of every act."""

from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from stratmaster_router.api.admin import admin_routes
from stratmaster_router.auth.credentials import Pepper
from stratmaster_router.domain.errors import NotFound, TenantMismatch
from stratmaster_router.domain.routing import Administrator
from stratmaster_router.gateway.settlement import Settlement
from stratmaster_router.storage.database import Database, database_url
from stratmaster_router.storage.keys import ApiKeyStore
from stratmaster_router.storage.schema import prepare
from support.keys import PEPPER

ROOT = Administrator("root")
OF_ACME = Administrator("jwt:acme-admin", frozenset({"acme", "nobody"}))


class Api:
    """The routes without a guard; `acts` are what was noted."""

    def __init__(self, store: ApiKeyStore) -> None:
        self.acts: list[tuple[str, str, str, str]] = []
        self.app = FastAPI()
        self.app.include_router(admin_routes(store, lambda: {"acme", "globex"}, self._note, 5.0))

    def _note(self, administrator: Administrator, act: str, tenant: str, key: str) -> None:
        self.acts.append((administrator.name, act, tenant, key))

    async def ask(self, who: Administrator, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and body of one request."""
        sent = b"" if body is None else msgspec.json.encode(body)
        answered: list[Any] = []
        scope = {
            "type": "http",
            "method": method,
            "path": f"/admin/v1/tenants/{path}",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "state": {"administrator": who, "settlement": Settlement("req_1", method, "unknown", 0.0)},
        }

        async def receive() -> Any:
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: Any) -> None:
            answered.append(message)

        await self.app(scope, receive, send)
        return answered[0]["status"], msgspec.json.decode(answered[1]["body"])


@pytest.fixture
async def api(tmp_path: Any) -> Any:
    """The routes over a database of their own."""
    opened = Database(database_url(f"sqlite:///{tmp_path}/router.db"))
    await prepare(opened)
    yield Api(ApiKeyStore(opened, Pepper(PEPPER.encode())))
    await opened.close()


async def test_every_act_is_noted_once(api: Api) -> None:
    """Who, what, for whom, which key; looking is no act, and neither is what was refused."""
    _, first = await api.ask(ROOT, "POST", "acme/keys", {})
    _, second = await api.ask(OF_ACME, "POST", f"acme/keys/{first['id']}/rotate", {})
    await api.ask(ROOT, "GET", "acme/keys")
    await api.ask(ROOT, "PATCH", f"acme/keys/{second['id']}", {"expires_in": 60})
    await api.ask(ROOT, "DELETE", f"acme/keys/{first['id']}")
    for method, path in (("DELETE", "acme/keys/000000000000"), ("POST", "nobody/keys")):
        with pytest.raises(NotFound):
            await api.ask(ROOT, method, path)

    assert api.acts == [
        ("root", "key.create", "acme", first["id"]),
        ("jwt:acme-admin", "key.rotate", "acme", first["id"]),
        ("root", "key.expire", "acme", second["id"]),
        ("root", "key.revoke", "acme", first["id"]),
    ]


async def test_administrator_of_some_tenants_has_no_other(api: Api) -> None:
    """One that there is and one that there is not are refused alike; its own must be in the policy all the same."""
    _, key = await api.ask(ROOT, "POST", "globex/keys", {})
    for tenant in ("globex", "initech"):
        for method, path, body in (
            ("GET", "keys", None),
            ("POST", "keys", {}),
            ("POST", f"keys/{key['id']}/rotate", {}),
            ("PATCH", f"keys/{key['id']}", {"expires_in": 0}),
            ("DELETE", f"keys/{key['id']}", None),
        ):
            with pytest.raises(TenantMismatch) as raised:
                await api.ask(OF_ACME, method, f"{tenant}/{path}", body)
            assert raised.value.message == "This administrator may not act for this tenant."
    with pytest.raises(NotFound):
        await api.ask(OF_ACME, "GET", "nobody/keys")

    assert await api.ask(OF_ACME, "GET", "acme/keys") == (200, {"object": "list", "data": []})
    assert (await api.ask(ROOT, "GET", "globex/keys"))[1]["data"][0]["state"] == "live"
    assert api.acts == [("root", "key.create", "globex", key["id"])]
