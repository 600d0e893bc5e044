import http.client
import json
from pathlib import Path

from support.calls import HELLO, TIMEOUT, chat, eventually, identified, samples
from support.policies import one_hop
from support.scripted import Exchange, chunked, running_scripted
from support.servers import Mock, RunningRouter, running_router

FAULTS = (
    "status=503",
    "status=404",
    "status=400",
    "fault=disconnect",
    "fault=cut-before-first-event",
    "fault=malformed-json,at=0",
    "fault=error-first-event",
    "fault=cut,at=2",
    "fault=error-in-band,at=2",
    "fault=html",
)
ROUNDS = 15
_OPEN = {"01", "08"}  # ESTABLISHED and CLOSE_WAIT in /proc/net/tcp: a socket that somebody still holds


def _connections_to(port: int) -> int:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] in _OPEN for row in rows)


def _ask_all(router: RunningRouter) -> list[int]:
    statuses = []
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=TIMEOUT)
    for _ in range(ROUNDS):
        for fault in FAULTS:
            for stream in (False, True):
                body = json.dumps({**HELLO, "model": f"m@{fault}", "stream": stream})
                connection.request("POST", "/v1/chat/completions", body, identified())
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
    connection.close()
    return statuses


def test_hundreds_of_failures_leave_nothing_open(mock: Mock, tmp_path: Path) -> None:
    """Failed requests leave no connection to the upstream, no request in flight and no request at the upstream."""
    port = int(mock.url.rpartition(":")[2])
    with running_router(tmp_path, one_hop(mock.url, *(f"m@{fault}" for fault in FAULTS))) as router:
        statuses = _ask_all(router)
        mock.wait_open(0)
        # Requests came in turn, and a failed answer that was read to its end may leave its connection for the next.
        left = eventually(lambda: _connections_to(port), lambda count: count <= 1)
        in_flight = eventually(lambda: samples(router)["litellm_requests_in_flight"], lambda count: count == 0)

    assert len(statuses) == ROUNDS * len(FAULTS) * 2
    # The two that break after their first event are a 200 where that event was passed on before the fault came.
    assert statuses.count(400) == ROUNDS * 2
    assert set(statuses) <= {200, 400, 503}
    assert left <= 1
    assert in_flight == 0


def test_requests_in_turn_share_one_connection(tmp_path: Path) -> None:
    """A connection whose answer was read to its end is used again, after streams too."""
    answer = b'{"choices":[]}'
    stream = chunked(b'data: {"choices":[{"finish_reason":"stop"}]}\n\n', b"data: [DONE]\n\n")
    with (
        running_scripted(
            lambda exchange: stream(exchange) if b'"stream": true' in exchange.body else exchange.answer(answer)
        ) as upstream,
        running_router(tmp_path, one_hop(upstream.url)) as router,
    ):
        statuses = [chat(router, stream=number % 2 == 1).status for number in range(40)]

    assert statuses == [200] * 40
    assert (len(upstream.exchanges), upstream.connections) == (40, 1)


def test_connection_that_the_upstream_closed_is_not_used_again(tmp_path: Path) -> None:
    """A provider that closes after each answer costs a new connection, never a failed request."""

    def script(exchange: Exchange) -> None:
        exchange.answer(b'{"choices":[]}')
        exchange.close()

    with running_scripted(script) as upstream, running_router(tmp_path, one_hop(upstream.url)) as router:
        answers = []
        for _ in range(20):
            answers.append(chat(router).status)
            eventually(lambda: _connections_to(upstream.port), lambda count: count == 0)

    assert answers == [200] * 20
    assert upstream.connections == 20
