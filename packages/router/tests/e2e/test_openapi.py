import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.keys import ADMIN_KEY, PEPPER
from support.processes import finished, serving
from support.servers import ACME_KEY, Mock

# Models that the tenant may use, so that what is generated reaches the provider too.
MODELS = ["reasoning", "embedding", "first/gpt-4.1"]


@pytest.mark.parametrize(
    ("models", "excluded"),
    # A provider may refuse what the router, which does not know all fields, has no reason to.
    [(None, []), (MODELS, ["--exclude-checks", "positive_data_acceptance"])],
    ids=["any model", "allowed models"],
)
def test_every_operation_does_what_the_openapi_document_says(
    models: list[str] | None, excluded: list[str], policy: str, upstream: Mock, tmp_path: Path
) -> None:
    """Whatever is sent, right or wrong, with a key or without: no 500, and every answer is as the document says."""
    with serving(tmp_path, policy) as served:
        answer = served.call("GET", "/openapi.json")
        assert answer.status == 200
        document: dict[str, Any] = answer.json()
        if models is not None:
            for path in ("chat/completions", "completions", "embeddings"):
                body = document["paths"][f"/v1/{path}"]["post"]["requestBody"]["content"]["application/json"]
                body["schema"]["properties"]["model"] = {"enum": models}
        (tmp_path / "openapi.json").write_bytes(msgspec.json.encode(document))

        ended = finished(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", served.url),
                *("--header", f"Authorization: Bearer {ACME_KEY}", "--header", "X-Tenant-ID: acme"),
                *("--phases", "coverage,fuzzing", "--checks", "all", "--generation-deterministic", *excluded),
                *("--max-examples", "15", "--continue-on-failure", "--no-color", "--warnings", "off"),
            ],
            tmp_path,
            seconds=60,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "Selected: 14/14" in ended.stdout
        assert "Traceback" not in served.stderr()
        if models is None:
            assert upstream.requests() == []
        else:
            assert {request["path"] for request in upstream.requests()} == {
                "/v1/chat/completions",
                "/v1/completions",
                "/v1/embeddings",
            }


def test_administration_does_what_the_openapi_document_says(policy: str, tmp_path: Path) -> None:
    """As its administrator, so that generated keys are made, changed and revoked."""
    (tmp_path / "administrators").mkdir()
    (tmp_path / "administrators" / "root").write_text(ADMIN_KEY)
    environ = {"ROUTER_ADMIN_KEYS_DIR": str(tmp_path / "administrators"), "ROUTER_KEY_PEPPER": PEPPER}
    with serving(tmp_path, policy, environ=environ) as served:
        document: dict[str, Any] = served.call("GET", "/openapi.json").json()
        for path, item in document["paths"].items():
            if path.startswith("/admin/"):
                for operation in item.values():
                    for parameter in operation["parameters"]:
                        if parameter["name"] == "tenant":
                            parameter["schema"] = {"enum": ["acme"]}
        (tmp_path / "openapi.json").write_bytes(msgspec.json.encode(document))

        ended = finished(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", served.url),
                *("--header", f"Authorization: Bearer {ADMIN_KEY}", "--include-path-regex", "^/admin/"),
                *("--phases", "coverage,fuzzing", "--checks", "all", "--generation-deterministic"),
                *("--max-examples", "30", "--continue-on-failure", "--no-color", "--warnings", "off"),
            ],
            tmp_path,
            seconds=60,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "Selected: 5/14" in ended.stdout
        assert "Traceback" not in served.stderr()
