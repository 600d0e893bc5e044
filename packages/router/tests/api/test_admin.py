"""The admin API over a socket: what it answers, whole, to whom, and what it leaves behind."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stratmaster_router.auth.credentials import new_key, visible_id
from support.calls import Answer, call, connected, eventually, identified, read_answer, samples
from support.keys import ADMIN, ADMIN_KEY, OTHER_PEPPER, PEPPER, POLICY, administer, made, running_with_keys
from support.servers import ACME_KEY, RunningRouter, running_router

NOWHERE = "http://127.0.0.1:1"
UNKNOWN_ID = "0123456789ab"


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """One router for the module; its provider is not there."""
    with running_with_keys(tmp_path_factory.mktemp("router"), POLICY.format(mock=NOWHERE)) as router:
        yield router


def bearer(key: str) -> dict[str, str]:
    """The headers of whoever holds `key`."""
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}


def refused(answer: Answer) -> tuple[int, str, str | None]:
    """Status, code and param of an error."""
    error = answer.error()
    return answer.status, error["code"], error["param"]


def keys(router: RunningRouter, tenant: str) -> list[dict[str, Any]]:
    """All keys of a tenant."""
    listing = administer(router, "GET", tenant=tenant).json()
    assert listing.keys() == {"object", "data"}
    found: list[dict[str, Any]] = listing["data"]
    return found


def since(written: str) -> float:
    """Seconds since a written time."""
    return (datetime.now(UTC) - datetime.fromisoformat(written)).total_seconds()


def test_created_key_is_answered_once(router: RunningRouter) -> None:
    """With all that is known of it; never again, and no cache may keep it."""
    answer = administer(router, "POST", "", {"expires_in": 3600, "note": "für die Nacht"})

    assert (answer.status, answer.headers["cache-control"]) == (201, "no-store")
    created = answer.json()
    key = created.pop("key")
    assert visible_id(key.encode()) == created["id"]
    assert 0 <= since(created["created_at"]) < 60
    assert datetime.fromisoformat(created["expires_at"]) - datetime.fromisoformat(created["created_at"]) == timedelta(
        hours=1
    )
    assert created == {
        "id": created["id"],
        "tenant": "acme",
        "note": "für die Nacht",
        "state": "live",
        "created_at": created["created_at"],
        "expires_at": created["expires_at"],
        "revoked_at": None,
        "rotated_from": None,
        "last_used_at": None,
    }
    listing = administer(router, "GET")
    assert (listing.status, listing.headers["cache-control"]) == (200, "no-store")
    assert created in listing.json()["data"]
    assert key[17:].encode() not in listing.body


@pytest.mark.parametrize("body", [None, {}], ids=["no body", "empty"])
def test_key_lives_for_a_quarter(router: RunningRouter, body: Any) -> None:
    """Where nothing else is said."""
    answer = administer(router, "POST", "", body)

    assert answer.status == 201
    created = answer.json()
    assert datetime.fromisoformat(created["expires_at"]) - datetime.fromisoformat(created["created_at"]) == timedelta(
        days=90
    )
    assert created["note"] == ""


def test_key_is_rotated_changed_and_revoked(router: RunningRouter) -> None:
    """The whole life of one."""
    old = made(router, "globex", note="batch")
    answer = administer(router, "POST", f"/{old['id']}/rotate", {"grace": 60}, tenant="globex")
    assert (answer.status, answer.headers["cache-control"]) == (201, "no-store")
    new = answer.json()
    assert (new["rotated_from"], new["note"], new["state"]) == (old["id"], "batch", "live")
    assert visible_id(new["key"].encode()) == new["id"] != old["id"]

    again = administer(router, "POST", f"/{old['id']}/rotate", tenant="globex")
    assert refused(again) == (409, "key_not_live", None)

    changed = administer(router, "PATCH", f"/{new['id']}", {"expires_in": 0}, tenant="globex")
    assert (changed.status, changed.json()["state"]) == (200, "expired")
    changed = administer(router, "PATCH", f"/{new['id']}", {"expires_in": 600}, tenant="globex")
    assert (changed.status, changed.json()["state"]) == (200, "live")

    for _ in range(2):
        gone = administer(router, "DELETE", f"/{new['id']}", tenant="globex")
        assert (gone.status, gone.json()["state"]) == (200, "revoked")
    assert refused(administer(router, "PATCH", f"/{new['id']}", {"expires_in": 600}, tenant="globex")) == (
        409,
        "key_not_live",
        None,
    )
    assert [(key["id"], key["state"]) for key in keys(router, "globex")] == [
        (old["id"], "live"),
        (new["id"], "revoked"),
    ]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "missing_api_key"),
        ({"Authorization": ADMIN_KEY}, 401, "missing_api_key"),
        ({"Authorization": "Basic cm9vdDo="}, 401, "missing_api_key"),
        ({"Cookie": f"key={ADMIN_KEY}"}, 401, "missing_api_key"),
        (bearer("adm-other"), 401, "invalid_api_key"),
        (bearer(new_key()[1]), 401, "invalid_api_key"),
        (bearer(ACME_KEY), 403, "admin_required"),
        (identified(), 403, "admin_required"),
    ],
)
@pytest.mark.parametrize("tenant", ["acme", "nobody"])
def test_only_administrators_are_let_in(
    router: RunningRouter, headers: dict[str, str], status: int, code: str, tenant: str
) -> None:
    """Whoever else asks learns nothing, not even which tenants there are."""
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", f"/{UNKNOWN_ID}"), ("PUT", "/x")):
        answer = call(router, method, f"/admin/v1/tenants/{tenant}/keys{path}", None, headers)
        assert refused(answer) == (status, code, None)


def test_self_service_key_opens_no_administration(router: RunningRouter) -> None:
    """Not even that of its own tenant's keys; and an administrator's key opens nothing for a tenant."""
    key = made(router)["key"]
    answer = eventually(
        lambda: call(router, "GET", "/admin/v1/tenants/acme/keys", None, bearer(key)), lambda seen: seen.status == 403
    )

    assert refused(answer) == (403, "admin_required", None)
    assert refused(call(router, "GET", "/v1/models", None, identified(ADMIN_KEY))) == (401, "invalid_api_key", None)


def test_tenant_must_be_in_the_policy(router: RunningRouter) -> None:
    """A key for a misspelt tenant would open nothing."""
    for tenant in ("nobody", "ACME", "acme%00", "%20"):
        for method, path in (("GET", ""), ("POST", ""), ("POST", f"/{UNKNOWN_ID}/rotate")):
            assert refused(administer(router, method, path, tenant=tenant)) == (404, "not_found", None)


def test_key_of_another_tenant_is_not_there(router: RunningRouter) -> None:
    """Whatever is tried with it."""
    key_id = made(router, "acme")["id"]
    for method, path, body in (
        ("POST", f"/{key_id}/rotate", None),
        ("PATCH", f"/{key_id}", {"expires_in": 0}),
        ("DELETE", f"/{key_id}", None),
    ):
        answer = administer(router, method, path, body, tenant="globex")
        assert answer.json()["error"]["message"] == f"There is no key {key_id} of tenant 'globex'."
        assert refused(answer) == (404, "not_found", None)
    assert [key["state"] for key in keys(router, "acme") if key["id"] == key_id] == ["live"]


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "param"),
    [
        ("POST", "", b"{", "invalid_json", None),
        ("POST", "", b"\xff\xfe", "invalid_json", None),
        ("POST", "", b"[" * 60_000, "invalid_json", None),
        ("POST", "", [], "invalid_request", "body"),
        ("POST", "", {"expires_in": 0}, "invalid_request", "body.expires_in"),
        ("POST", "", {"expires_in": 315_360_001}, "invalid_request", "body.expires_in"),
        ("POST", "", {"expires_in": "soon"}, "invalid_request", "body.expires_in"),
        ("POST", "", {"expires_in": 1.5}, "invalid_request", "body.expires_in"),
        ("POST", "", {"expires_in": True}, "invalid_request", "body.expires_in"),
        ("POST", "", {"expires_in": "60"}, "invalid_request", "body.expires_in"),
        ("POST", "", {"note": "x" * 201}, "invalid_request", "body.note"),
        ("POST", "", {"note": "\x00"}, "invalid_request", "body.note"),
        ("POST", "", b'{"note": "\\ud800"}', "invalid_request", "body.note"),
        ("POST", "", {"expires": 1}, "invalid_request", "body.expires"),
        ("POST", f"/{UNKNOWN_ID}/rotate", {"grace": -1}, "invalid_request", "body.grace"),
        ("PATCH", f"/{UNKNOWN_ID}", {}, "invalid_request", "body.expires_in"),
        ("PATCH", f"/{UNKNOWN_ID}", None, "invalid_request", "body"),
        ("PATCH", f"/{UNKNOWN_ID}", {"expires_in": -1}, "invalid_request", "body.expires_in"),
        ("DELETE", "/0123456789AB", None, "invalid_request", "path.key_id"),
        ("DELETE", "/0123456789a%00", None, "invalid_request", "path.key_id"),
    ],
)
def test_what_is_wrong_is_named(
    router: RunningRouter, method: str, path: str, body: Any, code: str, param: str | None
) -> None:
    """And nothing is made or changed."""
    before = keys(router, "globex")

    assert refused(administer(router, method, path, body, tenant="globex")) == (400, code, param)
    assert keys(router, "globex") == before


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_body_must_be_json(router: RunningRouter, media_type: str) -> None:
    """What a form of another site could send is refused."""
    headers = {**ADMIN, "Content-Type": media_type}

    answer = call(router, "POST", "/admin/v1/tenants/acme/keys", b'{"note": "x"}', headers)
    assert refused(answer) == (415, "unsupported_media_type", None)


def test_large_body_is_refused(router: RunningRouter) -> None:
    """Declared or in pieces."""
    assert refused(administer(router, "POST", "", b" " * 70_000)) == (413, "request_too_large", None)
    head = "POST /admin/v1/tenants/acme/keys HTTP/1.1\r\nHost: router\r\nTransfer-Encoding: chunked\r\n"
    lines = "".join(f"{name}: {value}\r\n" for name, value in ADMIN.items())
    with connected(router) as client:
        client.sendall(f"{head}{lines}\r\n".encode() + b"5000\r\n" + b" " * 0x5000 + b"\r\n")
        for _ in range(3):
            client.sendall(b"5000\r\n" + b" " * 0x5000 + b"\r\n")
        assert refused(read_answer(client)) == (413, "request_too_large", None)


def test_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    """Longer than for any other."""
    with running_with_keys(tmp_path / "router", POLICY.format(mock=NOWHERE), body_timeout=0.2) as router:
        head = "POST /admin/v1/tenants/acme/keys HTTP/1.1\r\nHost: router\r\nContent-Length: 9\r\n"
        lines = "".join(f"{name}: {value}\r\n" for name, value in ADMIN.items())
        with connected(router) as client:
            client.sendall(f"{head}{lines}\r\n".encode())
            assert refused(read_answer(client)) == (408, "request_timeout", None)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "", "GET, POST"),
        ("OPTIONS", "", "GET, POST"),
        ("GET", f"/{UNKNOWN_ID}", "PATCH, DELETE"),
        ("GET", f"/{UNKNOWN_ID}/rotate", "POST"),
    ],
)
def test_wrong_method_is_405_with_all_that_the_path_takes(
    router: RunningRouter, method: str, path: str, allow: str
) -> None:
    """Also where a path has several routes."""
    answer = administer(router, method, path)

    assert (refused(answer), answer.headers["allow"]) == ((405, "method_not_allowed", None), allow)


def test_administrators_are_rotated_with_their_folder(tmp_path: Path) -> None:
    """As the keys of tenants are: within 2 s."""
    with running_with_keys(tmp_path / "router", POLICY.format(mock=NOWHERE)) as router:
        (tmp_path / "router" / "administrators" / "root").write_text("adm-next\n")

        def status(key: str) -> int:
            return call(router, "GET", "/admin/v1/tenants/acme/keys", None, bearer(key)).status

        assert eventually(lambda: status("adm-next"), lambda seen: seen == 200, within=2.0) == 200
        assert status(ADMIN_KEY) == 401


def test_without_a_pepper_no_key_is_made(tmp_path: Path) -> None:
    """And the answer says what to set; the rest works."""
    with running_with_keys(tmp_path / "router", POLICY.format(mock=NOWHERE), key_pepper=None) as router:
        answer = administer(router, "POST", "", {})
        assert answer.json()["error"]["message"] == (
            "Self-service keys are off. Set ROUTER_KEY_PEPPER or ROUTER_KEY_PEPPER_FILE."
        )
        assert refused(answer) == (501, "keys_disabled", None)
        assert keys(router, "acme") == []


def test_without_administrators_nobody_is_let_in(tmp_path: Path) -> None:
    """A router whose operator set no folder."""
    with running_router(tmp_path, POLICY.format(mock=NOWHERE), key_pepper=PEPPER) as router:
        assert refused(administer(router, "GET")) == (401, "invalid_api_key", None)


def test_another_pepper_is_told_to_administrators_and_not_to_callers(tmp_path: Path) -> None:
    """A caller with a good key gets 503, as the router cannot know that it is good."""
    database = f"sqlite:///{tmp_path}/router.db"
    with running_with_keys(tmp_path / "a", POLICY.format(mock=NOWHERE), database_url=database) as router:
        key = made(router)["key"]
    with running_with_keys(
        tmp_path / "b", POLICY.format(mock=NOWHERE), database_url=database, key_pepper=OTHER_PEPPER
    ) as router:
        answer = call(router, "GET", "/v1/models", None, identified(key))
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["retryable"] is True
        assert answer.status == 503
        assert refused(administer(router, "POST", "", {})) == (501, "keys_disabled", None)
        assert call(router, "GET", "/v1/models").status == 200


def test_acts_leave_their_records(tmp_path: Path) -> None:
    """The access log has the route and the tenant and no id or key; metrics have ages of live keys and errors."""
    with running_with_keys(tmp_path / "router", POLICY.format(mock=NOWHERE)) as router:
        began = time.monotonic()
        key = made(router, "globex")
        gone = made(router, "acme")
        assert administer(router, "DELETE", f"/{gone['id']}").status == 200
        assert administer(router, "DELETE", f"/{UNKNOWN_ID}").status == 404
        assert administer(router, "GET", tenant="nobody").status == 404
        ages = eventually(lambda: samples(router, "litellm_api_key_age_seconds"), lambda seen: len(seen) == 1)
        elapsed = time.monotonic() - began
        errors = samples(router, "litellm_errors_total")

    assert list(ages) == [f'litellm_api_key_age_seconds{{key="{key["id"]}",tenant="globex"}}']
    assert all(0 <= age <= elapsed + 1 for age in ages.values())
    assert errors == {
        'litellm_errors_total{code="not_found",tenant="acme"}': 1.0,
        'litellm_errors_total{code="not_found",tenant="none"}': 1.0,
    }
    lines = [(line["method"], line["path"], line.get("tenant"), line["status"]) for line in router.access_lines()]
    path = "/admin/v1/tenants/{tenant}/keys"
    assert lines == [
        ("POST", path, "globex", 201),
        ("POST", path, "acme", 201),
        ("DELETE", f"{path}/{{key_id}}", "acme", 200),
        ("DELETE", f"{path}/{{key_id}}", "acme", 404),
        ("GET", path, None, 404),
    ]


def test_several_answers_are_documented(router: RunningRouter) -> None:
    """Each operation says which errors it has, in the one shape."""
    document = call(router, "GET", "/openapi.json").json()
    path = "/admin/v1/tenants/{tenant}/keys"
    answers = {
        (method, name.removeprefix(path)): sorted(operation["responses"])
        for name, item in document["paths"].items()
        if name.startswith(path)
        for method, operation in item.items()
    }
    usual = ["400", "401", "403", "404", "503", "default"]
    assert answers == {
        ("get", ""): sorted(["200", *usual]),
        ("post", ""): sorted(["201", "501", *usual]),
        ("patch", "/{key_id}"): sorted(["200", "409", *usual]),
        ("delete", "/{key_id}"): sorted(["200", *usual]),
        ("post", "/{key_id}/rotate"): sorted(["201", "409", "501", *usual]),
    }
