"""Nothing but an explicit list is reached without a credential: the route table says so, and a running router."""

import http.client
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stratmaster_router.api.guard import OPEN_PATHS, administrative, guarded
from stratmaster_router.app import Router
from stratmaster_router.settings import Settings
from support.servers import ACME_KEY, RunningRouter, running_router

POLICY = "tenants: {acme: {providers: {openai: {models: {reasoning: {default: gpt-4.1}}}}}}\n"
SPELLINGS = [
    "/v1",
    "/v1/",
    "/v1/nothing",
    "/admin",
    "/admin/",
    "/admin/keys",
    "/V1/models",
    "//v1/models",
    "/v1//models",
    "/./v1/models",
    "/healthz/../v1/models",
    "/healthz/../../v1/models",
    "/%76%31/models",
    "/v1%2Fmodels",
    "/v1/models%00",
    "/v1;x/models",
    "/v1/models?x=/healthz",
    "/internal/metrics/../../v1/models",
    "/healthz;/v1/models",
    "/openapi.json/../v1/models",
]


def walk(routes: Iterable[Any]) -> Iterator[tuple[str, frozenset[str]]]:
    """Every path that the app serves, with its methods; fails on a kind of route that nobody knows."""
    for route in routes:
        if hasattr(route, "original_router"):  # FastAPI keeps an included router as one entry
            yield from walk(route.original_router.routes)
        else:
            assert route.methods, route
            yield route.path, frozenset(route.methods)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, frozenset[str]]:
    """The route table of a real router, which is not started."""
    folder = tmp_path_factory.mktemp("table")
    (folder / "policy.yaml").write_text(POLICY)
    router = Router(Settings.model_validate({"policy": folder / "policy.yaml", "access_log": "off"}))
    methods: dict[str, frozenset[str]] = {}
    for path, taken in walk(router.fastapi.routes):
        assert not taken & methods.get(path, frozenset()), path
        methods[path] = methods.get(path, frozenset()) | taken
    # The document is made by FastAPI's own walk: neither may know a route that the other does not.
    assert {path.replace(":path}", "}") for path in methods} - {"/openapi.json"} == set(
        router.fastapi.openapi()["paths"]
    )
    return methods


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router for the module; no test here gets past the guard."""
    with running_router(tmp_path_factory.mktemp("router"), POLICY) as router:
        yield router


def ask(router: RunningRouter, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and body of one request, its path sent as it is written."""
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=10)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def guarded_paths(table: dict[str, frozenset[str]]) -> list[str]:
    """Every guarded path, with something in the place of its parameters."""
    named = {"{model:path}": "reasoning", "{tenant}": "acme", "{key_id}": "0123456789ab"}
    found = [path for path in table if guarded(path)]
    assert len(found) == 8
    return [re.sub(r"\{[a-z_]+(:path)?\}", lambda match: named[match[0]], path) for path in found]


def test_every_route_is_guarded_or_on_the_list(table: dict[str, frozenset[str]]) -> None:
    """A new route that is neither fails here, and so does an entry of the list that no route has."""
    assert {path for path in table if not guarded(path)} == OPEN_PATHS
    assert not any(guarded(path) for path in OPEN_PATHS)


def test_route_table_is_this_one(table: dict[str, frozenset[str]]) -> None:
    """The endpoints of wire.md, those of administrators, and nothing else."""
    assert table == {
        "/openapi.json": {"GET", "HEAD"},
        "/healthz": {"GET"},
        "/readyz": {"GET"},
        "/internal/metrics": {"GET"},
        "/internal/status": {"GET"},
        "/v1/chat/completions": {"POST"},
        "/v1/completions": {"POST"},
        "/v1/embeddings": {"POST"},
        "/v1/models": {"GET"},
        "/v1/models/{model:path}": {"GET"},
        "/admin/v1/tenants/{tenant}/keys": {"GET", "POST"},
        "/admin/v1/tenants/{tenant}/keys/{key_id}": {"PATCH", "DELETE"},
        "/admin/v1/tenants/{tenant}/keys/{key_id}/rotate": {"POST"},
    }


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_guarded_routes_answer_nobody_without_a_key(
    table: dict[str, frozenset[str]], running: RunningRouter, method: str
) -> None:
    """Whatever the method, an unjudged caller learns nothing, not even whether the method is right."""
    for path in guarded_paths(table):
        status, body = ask(running, method, path, {"X-Tenant-ID": "acme"})
        assert (path, status) == (path, 401)
        if method != "HEAD":
            assert json.loads(body)["error"]["code"] == "missing_api_key"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_routes_of_administrators_are_closed_to_tenants(
    table: dict[str, frozenset[str]], running: RunningRouter, method: str
) -> None:
    """A tenant's own key, good as it is, opens nothing of them, whatever the method."""
    headers = {"X-Tenant-ID": "acme", "Authorization": f"Bearer {ACME_KEY}"}
    paths = [path for path in guarded_paths(table) if path.startswith("/admin/")]
    assert len(paths) == 3
    for path in [*paths, "/admin", "/admin/", "/admin/nothing"]:
        status, body = ask(running, method, path, headers)
        assert (path, status, json.loads(body)["error"]["code"]) == (path, 403, "admin_required")


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_open_routes_answer_without_a_key(running: RunningRouter, path: str) -> None:
    """The list is served to anybody."""
    status, body = ask(running, "GET", path, {})

    assert status == 200
    assert len(body) > 0


@pytest.mark.parametrize("path", SPELLINGS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_spelling_of_a_path_gets_around_the_guard(running: RunningRouter, method: str, path: str) -> None:
    """Another case, encoding or detour is refused or is no path at all, and never an answer."""
    status, body = ask(running, method, path, {"X-Tenant-ID": "acme"})

    assert (status, json.loads(body)["error"]["code"]) in [(401, "missing_api_key"), (404, "not_found")]


def test_document_asks_for_credentials_where_the_guard_does(tmp_path: Path) -> None:
    """Each operation of the OpenAPI document is marked as guarded exactly where it is."""
    with running_router(tmp_path, POLICY) as router:
        document = json.loads(ask(router, "GET", "/openapi.json", {})[1])
        status, _ = ask(router, "GET", "/v1/models", {"X-Tenant-ID": "acme", "Authorization": f"Bearer {ACME_KEY}"})

    assert status == 200
    marked = {
        path: {method: operation.get("security", []) for method, operation in item.items()}
        for path, item in document["paths"].items()
    }
    for path, operations in marked.items():
        wanted = "administrator" if administrative(path) else "key"
        assert set(map(str, operations.values())) == ({f"[{{'{wanted}': []}}]"} if guarded(path) else {"[]"}), path
