"""`stratmaster-router policy …`: check a policy file, print its schema, explain a decision. Calls nobody."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from stratmaster_router.domain.errors import RouterError
from stratmaster_router.domain.routing import Endpoint, Principal, RequestFacts
from stratmaster_router.policy.decide import decide
from stratmaster_router.policy.explain import as_dict, as_text
from stratmaster_router.policy.problems import PolicyInvalid
from stratmaster_router.policy.schema import json_schema
from stratmaster_router.policy.snapshot import Snapshot, TenantPolicy
from stratmaster_router.policy.source import PolicySource
from stratmaster_router.privacy.outgoing import unsearchable
from stratmaster_router.privacy.rawdocs import screen
from stratmaster_router.upstream.tls import tls_trouble
from stratmaster_router.wire.envelope import read_envelope
from stratmaster_router.wire.json_text import members

app = typer.Typer(help="Check and explain policy files.", no_args_is_help=True)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="The policy file.", show_default=False)]) -> None:
    """Validate FILE: a summary and warnings, or every problem with its line on stderr and exit code 1."""
    snapshot = _load(file)
    typer.echo(f"{file}: valid, policy {snapshot.hash}")
    for tenant in snapshot.tenants.values():
        typer.echo(f"  tenant {tenant.name}: {_summary(tenant)}")
    for provider in snapshot.providers.values():
        typer.echo(f"  provider {provider.name}: wire {provider.wire}, {provider.base_url or 'no address'}")
    for warning in snapshot.warnings:
        typer.echo(f"warning: {warning}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the policy file, for editors."""
    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def explain(
    policy: Annotated[Path, typer.Option(help="The policy file.", show_default=False)],
    tenant: Annotated[str, typer.Option(help="Who asks.", show_default=False)],
    model: Annotated[
        str, typer.Option(help="A task, a model or provider/model; wins over the request's own.", show_default=False)
    ],
    request: Annotated[
        Path | None, typer.Option(help="A request body as JSON, for its raw documents and lengths.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say where a request of TENANT for MODEL would go, and why; exit code 1 when it is refused."""
    snapshot = _load(policy)
    facts = RequestFacts(Endpoint.CHAT, model) if request is None else _facts(request, model)
    principal = Principal(tenant)
    decision = decide(snapshot, principal, facts)
    if as_json:
        typer.echo(json.dumps(as_dict(snapshot, principal, facts, decision), indent=2))
    else:
        typer.echo(as_text(snapshot, principal, facts, decision))
    raise typer.Exit(0 if decision.refusal is None else 1)


def _load(file: Path) -> Snapshot:
    try:
        return PolicySource(file, os.environ, tls_trouble).snapshot
    except PolicyInvalid as invalid:
        for problem in invalid.problems:
            typer.echo(f"{file}: {problem}", err=True)
        raise typer.Exit(1) from None


def _summary(tenant: TenantPolicy) -> str:
    tasks = [name for name, route in tenant.routes.items() if route.task is not None]
    models = [name for name, _ in tenant.listing if name not in tasks]
    embeddings = "embeddings enabled" if tenant.embeddings_enabled else "no embeddings"
    return f"tasks {', '.join(tasks) or 'none'}; models {', '.join(models) or 'none'}; {embeddings}"


def _facts(request: Path, model: str) -> RequestFacts:
    """What policy may know of the request in a file; the endpoint is the one that its fields belong to."""
    try:
        body = request.read_bytes()
        endpoint = _endpoint(body)
        fields = read_envelope(endpoint, body).fields
        raw_docs, longest = screen(endpoint, fields, None)
    except (OSError, RouterError) as error:
        reason = error.message if isinstance(error, RouterError) else error.strerror
        typer.echo(f"{request}: {reason}", err=True)
        raise typer.Exit(1) from None
    return RequestFacts(endpoint, model, raw_docs, longest, unsearchable(endpoint, fields))


def _endpoint(body: bytes) -> Endpoint:
    fields, _ = members(body.decode(errors="replace"))
    if "messages" not in fields:
        for name, endpoint in (("input", Endpoint.EMBEDDINGS), ("prompt", Endpoint.COMPLETIONS)):
            if name in fields:
                return endpoint
    return Endpoint.CHAT
