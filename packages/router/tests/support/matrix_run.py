"""Runs the cells of the fault matrix: one router, and for each cell a provider of its own."""

import contextlib
import http.client
import json
import secrets
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from support.acts import DONE, EVENT, FINISH
from support.books import used
from support.calls import Answer, connected, eventually, request_bytes
from support.matrix import CELLS, Cell, Leaves, Outcome, Where
from support.scripted import PATIENCE, Exchange, running_scripted
from support.servers import RunningRouter, running_router

_PATIENT = {"connect": "10s", "first_byte": "10s", "idle": "10s", "total": "60s"}


class _Run:
    """What is known of one cell's request at its provider. `received`: the client has the first event."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.read = threading.Event()
        self.received = threading.Event()
        self.calls = 0
        self.open = 0


class Matrix:
    """A router in front of one provider for each cell."""

    def __init__(self, router: RunningRouter, folder: Path, runs: dict[str, _Run]) -> None:
        self.router = router
        self._folder = folder
        self._runs = runs

    def run(self, cell: Cell) -> Outcome:
        """Run `cell`, which can be done once: its failures count against its provider."""
        provider = _provider(cell)
        run, request_id = self._runs[provider], f"{provider}-{secrets.token_hex(4)}"
        answer = self._ask(cell, run, provider, request_id)
        row = eventually(lambda: self._row(request_id), lambda found: found is not None)
        assert row is not None, "the ledger has no row"
        status, attempts, cost, estimated = row
        code = self._code(request_id) if answer is None else _code(answer)
        problems = [*self._left_over(provider, run, cost)]
        if answer is not None:
            problems += _disagreements(answer, status, attempts, code)
        if cell.where is Where.PROVIDER and run.calls != attempts:
            problems.append(f"{run.calls} calls at the provider, {attempts} in the ledger")
        return Outcome(status, code, attempts, cost, bool(estimated), tuple(problems))

    def _ask(self, cell: Cell, run: _Run, provider: str, request_id: str) -> Answer | None:
        """The answer, None where the client has gone."""
        body: dict[str, Any] = {"model": f"{provider}/m", "messages": [{"role": "user", "content": "hello"}]}
        body["max_tokens"] = 50
        if cell.stream:
            body["stream"] = True
        lines = [b"X-Request-ID: " + request_id.encode()]
        if cell.deadline is not None:
            lines.append(b"X-Request-Timeout-MS: %d" % cell.deadline)
        with connected(self.router) as client:
            client.sendall(request_bytes(body, *lines))
            if cell.leaves is not None:
                self._wait_to_leave(cell.leaves, client, run, provider)
                return None
            response = http.client.HTTPResponse(client)
            response.begin()
            first = b""
            if cell.then is not None:
                first = response.readline() + response.readline()
                run.received.set()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, first + response.read())

    def _wait_to_leave(self, when: Leaves, client: socket.socket, run: _Run, provider: str) -> None:
        if when is Leaves.CONNECTING:
            # What is reserved shows that it was let in; the connection is what it does next.
            holds = eventually(lambda: used(self.router, provider), lambda seen: seen.get("parallel") == 1)
            assert holds["parallel"] == 1
        elif when is Leaves.STREAMING:
            seen = b""
            while EVENT not in seen:
                seen += client.recv(4096)
            run.received.set()
        else:
            assert (run.asked if when is Leaves.ASKED else run.read).wait(PATIENCE)

    def _row(self, request_id: str) -> tuple[int, int, int, int] | None:
        with contextlib.closing(sqlite3.connect(self._folder / "router.db")) as database:
            found: tuple[int, int, int, int] | None = database.execute(
                "SELECT status, attempts, cost_nanousd, estimated FROM ledger WHERE request_id = ?", (request_id,)
            ).fetchone()
        return found

    def _code(self, request_id: str) -> str | None:
        """The access log's, for a client that has heard nothing."""
        (line,) = eventually(
            lambda: [line for line in self.router.access_lines() if line["request_id"] == request_id], bool
        )
        code: str | None = line.get("code")
        return code

    def _left_over(self, provider: str, run: _Run, cost: int) -> Iterator[str]:
        """What the request holds after its end, and what was booked of it elsewhere than in the ledger."""

        def booked() -> tuple[float, int]:
            account = used(self.router, provider)
            return account.get("parallel", 0), round(account.get("usd", 0) * 1e9)

        slots, spent = eventually(booked, lambda seen: seen == (0, cost))
        if slots:
            yield "its slot is not free"
        if spent != cost:
            yield f"{spent} of the budget, {cost} in the ledger"
        if eventually(lambda: run.open, lambda count: count == 0):
            yield "its connection to the provider is open"


@contextlib.contextmanager
def running_matrix(folder: Path) -> Iterator[Matrix]:
    """A router with all cells; its files are in `folder`."""
    runs = {_provider(cell): _Run() for cell in CELLS}
    cells = {_provider(cell): cell for cell in CELLS}

    def script(exchange: Exchange) -> None:
        provider = exchange.path.split("/")[1]
        cell, run = cells[provider], runs[provider]
        run.calls += 1
        run.open += 1
        run.asked.set()
        try:
            cell.act(exchange)
            run.read.set()
            if cell.then is not None:
                assert run.received.wait(PATIENCE)
                cell.then(exchange)
        finally:
            run.open -= 1

    with ExitStack() as stack:
        scripted = stack.enter_context(running_scripted(script))
        nobody = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        closed = nobody.getsockname()[1]
        nobody.close()
        # A queue of one that nobody accepts from is full after the first connection: the rest gets no answer.
        silence = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        stack.enter_context(socket.create_connection(silence.getsockname()))
        ports = {Where.PROVIDER: scripted.port, Where.NOBODY: closed, Where.SILENCE: silence.getsockname()[1]}
        router = stack.enter_context(running_router(folder, _policy(ports)))
        yield Matrix(router, folder, runs)


def _provider(cell: Cell) -> str:
    """Seven characters, so that with `/m` behind it the body has the length that the costs are made of."""
    return f"cell{CELLS.index(cell):03}"


def _policy(ports: dict[Where, int]) -> str:
    providers, uses = [], []
    for cell in CELLS:
        name = _provider(cell)
        timeouts = dict(_PATIENT)
        for limit in filter(None, cell.limits.split(", ")):
            phase, _, seconds = limit.partition(": ")
            timeouts[phase] = seconds
        providers.append(
            f'  {name}: {{base_url: "http://127.0.0.1:{ports[cell.where]}/{name}/v1", '
            f"timeouts: {json.dumps(timeouts)}, retries: {{{cell.retries}}}}}"
        )
        uses.append(
            f"      {name}: {{limits: {{max_parallel: 9, budget_usd_day: 1}}, models: {{task: {{default: m}}}}}}"
        )
    prices = ["models:", "  m: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}"]
    tenant = ["tenants:", "  acme:", "    limits: {budget_usd_day: 100}", "    providers:"]
    return "\n".join(["providers:", *providers, *prices, *tenant, *uses])


def _code(answer: Answer) -> str | None:
    """The code that the client has seen."""
    if answer.status == 200:
        if not answer.headers["content-type"].startswith("text/event-stream"):
            return None
        last = answer.body.rstrip().rpartition(b"\n\n")[2].removeprefix(b"data: ")
        found = json.loads(last)["error"]["code"] if last.startswith(b'{"error"') else None
    else:
        error = answer.json()["error"]
        found = error["attempts"][-1]["code"] if answer.status == 503 else error["code"]
    return None if found is None else str(found)


def _disagreements(answer: Answer, status: int, attempts: int, code: str | None) -> Iterator[str]:
    """Where the answer contradicts the ledger, or itself."""
    if answer.status != status:
        yield f"{answer.status} for the client, {status} in the ledger"
    told = [int(answer.headers["x-router-attempts"])]
    if answer.status == 503:
        told.append(len(answer.json()["error"]["attempts"]))
    if set(told) != {attempts}:
        yield f"{told} attempts for the client, {attempts} in the ledger"
    if answer.headers["content-type"].startswith("text/event-stream"):
        ended = DONE in answer.body or FINISH in answer.body
        if ended is not (code is None):
            yield "the stream looks whole and is not, or the other way"
