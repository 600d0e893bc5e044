import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.processes import ACME, Answer, Deadline, Line, Scrape, serving, wait_until
from support.servers import ACME_KEY, Mock

CHAT: dict[str, Any] = {"model": "reasoning", "messages": [{"role": "user", "content": "one two three"}]}
EMBEDDING = {"model": "embedding", "input": "one two three"}
UNKNOWN = {**CHAT, "model": "unknown"}
HANGING = {**CHAT, "model": "hanging"}
WITHOUT_KEY = {"X-Tenant-ID": "acme", "Content-Type": "application/json"}


def chats(lines: list[Line], count: int) -> list[Answer]:
    """`count` chats over each of `lines`, all lines at once."""
    answers = []
    for _ in range(count):
        for line in lines:
            line.send("POST", "/v1/chat/completions", CHAT)
        answers += [line.receive() for line in lines]
    return answers


@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_and_access_log_are_exact_with_workers(
    workers: int, policy: str, upstream: Mock, tmp_path: Path
) -> None:
    """Whichever workers answer, each scrape counts every request once, and each has one whole access line."""
    with serving(tmp_path, policy, workers=workers) as served, served.lines(workers, each=5) as found:
        answers = []
        for line in [line for lines in found.values() for line in lines]:
            answers += [
                line.post("/v1/chat/completions", CHAT),
                line.post("/v1/chat/completions", {**CHAT, "stream": True}),
                line.post("/v1/embeddings", EMBEDDING),
                line.post("/v1/chat/completions", UNKNOWN),
                line.get("/v1/models"),
                line.post("/v1/chat/completions", CHAT, WITHOUT_KEY),
            ]
        lines = 5 * workers
        assert Counter(answer.status for answer in answers) == {200: 4 * lines, 404: lines, 401: lines}
        assert len({answer.worker for answer in answers}) == workers

        wait_until(lambda: served.metrics().total("litellm_errors_total") == 2 * lines, "all errors are counted")
        for scraper in [line for lines_ in found.values() for line in lines_]:
            scrape = scraped(scraper)
            assert scrape.by_labels("litellm_requests_total") == {
                ("acme", "first", "gpt-4.1"): 2 * lines,
                ("acme", "first", "text-embedding-3-small"): lines,
                ("acme", "none", "none"): lines,
            }
            assert scrape.by_labels("litellm_input_tokens_total") == {
                ("acme", "first", "gpt-4.1"): 2 * lines * 3,
                ("acme", "first", "text-embedding-3-small"): lines * 3,
            }
            assert scrape.by_labels("litellm_output_tokens_total") == {("acme", "first", "gpt-4.1"): 2 * lines * 4}
            assert scrape.by_labels("litellm_errors_total") == {
                ("acme", "model_not_found"): lines,
                ("none", "missing_api_key"): lines,
            }
            assert scrape.total("litellm_request_duration_seconds_count") == 4 * lines
            assert scrape.total("litellm_time_to_first_token_seconds_count") == lines
        assert len(upstream.requests()) == 3 * lines

        served.terminate()
        logged = served.access_lines()
        assert sorted(line["request_id"] for line in logged) == sorted(a.headers["x-request-id"] for a in answers)
        assert Counter((line["path"], line["status"], line.get("code")) for line in logged) == {
            ("/v1/chat/completions", 200, None): 2 * lines,
            ("/v1/embeddings", 200, None): lines,
            ("/v1/chat/completions", 404, "model_not_found"): lines,
            ("/v1/models", 200, None): lines,
            ("/v1/chat/completions", 401, "missing_api_key"): lines,
        }
        assert "Traceback" not in served.stderr()


def scraped(line: Line) -> Scrape:
    """A scrape that the worker behind `line` answers."""
    answer = line.get("/internal/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(answer.body.decode())


def test_in_flight_is_summed_over_workers_and_returns_to_zero(policy: str, upstream: Mock, tmp_path: Path) -> None:
    """The gauge shows the requests under way at all workers, and none once their clients have gone away."""
    with serving(tmp_path, policy, workers=2) as served, served.lines(2, each=3) as found:
        hanging = [line for lines in found.values() for line in lines]
        for line in hanging:
            line.send("POST", "/v1/chat/completions", HANGING)
        upstream.wait_open(6)

        wait_until(lambda: served.metrics().total("litellm_requests_in_flight") == 6, "6 requests are in flight")
        for line in hanging:
            line.close()
        upstream.wait_open(0)
        wait_until(lambda: served.metrics().total("litellm_requests_in_flight") == 0, "no request is in flight")
        assert served.metrics().by_labels("litellm_errors_total") == {("acme", "client_disconnected"): 6}


def counted(found: dict[str, list[Line]]) -> list[float]:
    """The chats that each worker says have been answered."""
    chat = ("acme", "first", "gpt-4.1")
    return [scraped(lines[0]).by_labels("litellm_requests_total").get(chat, 0) for lines in found.values()]


def test_scrapes_at_the_same_time_are_all_answered(policy: str, tmp_path: Path) -> None:
    """However many scrape at once, and whatever the clock of each worker does meanwhile, every scrape is whole."""
    with serving(tmp_path, policy, workers=2) as served, served.lines(2, each=6) as found:
        lines = [line for lines in found.values() for line in lines]
        chats(lines, 1)
        wait_until(lambda: counted(found) == [12, 12], "all are counted")
        enough = Deadline(1.5)
        while not enough.passed():
            for line in lines:
                line.send("GET", "/internal/metrics")
            answers = [line.receive() for line in lines]
            assert {answer.status for answer in answers} == {200}
            assert {Scrape(answer.body.decode()).total("litellm_requests_total") for answer in answers} == {12}
        assert '"exception"' not in served.stderr()


def test_killed_worker_is_replaced_and_counters_stay(policy: str, upstream: Mock, tmp_path: Path) -> None:
    """A worker that is killed is started again; what it had counted stays, what it had in flight does not."""
    with serving(tmp_path, policy, workers=2) as served:
        with served.lines(2) as found:
            before = [answer for lines in found.values() for answer in chats(lines, 5)]
            assert [answer.status for answer in before] == [200] * 40
            wait_until(lambda: len(served.access_lines()) == 40, "the access log has all requests")
            # What a worker has not yet shared when it is killed is lost with it, so both are given the time to.
            wait_until(lambda: counted(found) == [40, 40], "each worker knows what the other has counted")
            hanging = [line for lines in found.values() for line in lines[:2]]
            for line in hanging:
                line.send("POST", "/v1/chat/completions", HANGING)
            upstream.wait_open(4)
            wait_until(lambda: served.metrics().total("litellm_requests_in_flight") == 4, "4 requests are in flight")

            killed = served.children()[0]
            os.kill(killed, signal.SIGKILL)
            upstream.wait_open(2)
            wait_until(lambda: served.metrics().total("litellm_requests_in_flight") == 2, "the dead worker counts none")
            for line in hanging:
                line.close()
            upstream.wait_open(0)

        wait_until(lambda: len(served.children()) == 2 and killed not in served.children(), "the worker is replaced")
        with served.lines(2) as found:
            assert len({*found} - {answer.worker for answer in before}) == 1
            after = [answer for lines in found.values() for answer in chats(lines, 5)]
            assert [answer.status for answer in after] == [200] * 40
            wait_until(lambda: counted(found) == [80, 80], "nothing is lost and nothing counted twice")

        served.terminate()
        # The killed worker's two hanging requests have no line; the other two ended with their clients.
        assert Counter(line["status"] for line in served.access_lines()) == {200: 80, 499: 2}


@pytest.mark.parametrize("workers", [1, 2])
def test_new_policy_is_in_force_in_every_worker_within_two_seconds(workers: int, policy: str, tmp_path: Path) -> None:
    """Until the new policy is in force the old one answers whole; 2 s after the change only the new one does."""
    with serving(tmp_path, policy, workers=workers) as served, served.lines(workers) as found:
        lines = [line for lines in found.values() for line in lines]
        old = lines[0].get("/healthz").json()["policy"]

        served.replace_policy(policy.replace("reasoning: {default: gpt-4.1}", "reasoning: {default: gpt-4o}"))
        changed = Deadline(2.0)
        seen = set()
        while not changed.passed():
            seen |= {
                (a.status, a.headers["x-router-policy"] == old, a.headers["x-router-model"]) for a in chats(lines, 1)
            }
        assert seen <= {(200, True, "gpt-4.1"), (200, False, "gpt-4o")}

        after = chats(lines, 3)
        assert len({answer.worker for answer in after}) == workers
        assert {(answer.status, answer.headers["x-router-model"]) for answer in after} == {(200, "gpt-4o")}
        new = {answer.headers["x-router-policy"] for answer in after}
        assert len(new) == 1
        assert {line.get("/healthz").json()["policy"] for line in lines} == new != {old}


def test_changed_keys_are_in_force_in_every_worker_within_two_seconds(policy: str, tmp_path: Path) -> None:
    """2 s after a key was replaced no worker takes the old one and every worker takes the new one."""
    with serving(tmp_path, policy, workers=2) as served, served.lines(2) as found:
        lines = [line for lines in found.values() for line in lines]
        new = {**ACME, "Authorization": "Bearer sk-acme-new-aaaaaaaaaaaaaaaa"}
        assert {line.get("/v1/models", new).status for line in lines} == {401}

        (served.keys / "acme").write_text("sk-acme-new-aaaaaaaaaaaaaaaa\n")
        changed = Deadline(2.0)
        while not changed.passed():
            assert {line.get("/v1/models").status for line in lines} <= {200, 401}

        assert {line.get("/v1/models").status for line in lines} == {401}
        assert {line.get("/v1/models", new).status for line in lines} == {200}
        assert ACME_KEY not in served.stderr()


def test_invalid_policy_leaves_the_last_good_one_in_every_worker(policy: str, tmp_path: Path) -> None:
    """A change that cannot take effect is refused by each worker, which says so and answers as before."""
    with serving(tmp_path, policy, workers=2) as served, served.lines(2) as found:
        lines = [line for lines in found.values() for line in lines]
        old = lines[0].get("/healthz").json()["policy"]

        served.replace_policy(policy.replace("reasoning: {default:", "reasoning: {defualt:"))
        failures = "litellm_policy_reload_failures_total"
        wait_until(lambda: served.metrics().total(failures) == 2, "both workers have refused the change")

        answers = chats(lines, 2)
        assert {(answer.status, answer.headers["x-router-policy"]) for answer in answers} == {(200, old)}
        assert {line.get("/readyz").status for line in lines} == {200}
        assert served.stderr().count("did you mean 'default'?") == 2


def test_worker_killed_under_an_invalid_policy_does_not_end_the_service(policy: str, tmp_path: Path) -> None:
    """While the file is invalid the living workers go on under the last good policy; mended, all are back."""
    with serving(tmp_path, policy, workers=2) as served:
        with served.lines(2) as found:
            old = next(iter(found.values()))[0].get("/healthz").json()["policy"]
        served.replace_policy("tenants: [")
        wait_until(
            lambda: served.metrics().total("litellm_policy_reload_failures_total") == 2, "both have refused the change"
        )

        os.kill(served.children()[0], signal.SIGKILL)
        wait_until(
            lambda: served.stderr().count('"Child process') > 1 or served.stderr().count('"policy in force"') == 3,
            "the new worker has come up or has failed to",
        )
        for _ in range(20):
            answer = served.call("POST", "/v1/chat/completions", CHAT)
            assert (answer.status, answer.headers["x-router-policy"]) == (200, old)

        served.replace_policy(policy)
        with served.lines(2) as found:
            assert {line.get("/healthz").json()["policy"] for lines in found.values() for line in lines} == {old}
        assert "Traceback" not in served.stderr()


def test_worker_that_is_slow_to_start_is_not_killed_for_it(policy: str, tmp_path: Path) -> None:
    """Its supervisor asks it whether it lives; one that has nothing to answer with yet is let be."""
    with serving(tmp_path, policy, workers=2) as served:
        before = served.children()
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len({*served.children()} - {*before}) == 1, "a new worker is started")
        [fresh] = {*served.children()} - {*before}
        os.kill(fresh, signal.SIGSTOP)  # as a machine does that has no time for it
        time.sleep(7)
        os.kill(fresh, signal.SIGCONT)
        with served.lines(2):
            assert served.children() == sorted([fresh, before[1]])
        assert served.stderr().count('"Child process') == 1


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_serve_after_the_stream_under_way(
    number: signal.Signals, workers: int, policy: str, tmp_path: Path
) -> None:
    """Whoever is being answered gets the whole answer; then the exit code is 0 and every request has its line."""
    with serving(tmp_path, policy, workers=workers) as served:
        line = Line(served.port)
        line.send("POST", "/v1/chat/completions", {**CHAT, "model": "slow", "stream": True})
        response = line.response()
        first = response.readline()
        served.signal(number)
        rest = response.read()
        line.close()

        assert served.wait() == 0
        assert first.startswith(b"data: {")
        assert rest.endswith(b"data: [DONE]\n\n")
        assert rest.count(b'"content":"') + first.count(b'"content":"') == 21  # the opening chunk and 20 words
        assert [(line["status"], line.get("code"), line["output_tokens"]) for line in served.access_lines()] == [
            (200, None, 20)
        ]
        assert "Traceback" not in served.stderr()


def test_port_is_free_again_after_the_end(policy: str, tmp_path: Path) -> None:
    """A router that was stopped leaves neither a worker nor its port nor its metrics' folder behind."""
    with serving(tmp_path, policy, workers=2, environ={"TMPDIR": str(tmp_path)}) as served:
        workers = served.children()
        assert len(workers) == 2
        assert [path.name.rpartition("-")[0] for path in tmp_path.glob("stratmaster-router-*")] == [
            "stratmaster-router"
        ]

        served.terminate()
        assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
        assert list(tmp_path.glob("stratmaster-router-*")) == []
        with pytest.raises(ConnectionRefusedError):
            served.call("GET", "/healthz")


def test_workers_end_with_their_supervisor(policy: str, tmp_path: Path) -> None:
    """A supervisor that is killed leaves no worker that would hold the port and serve unsupervised."""
    with serving(tmp_path, policy, workers=2) as served, served.lines(2):
        workers = served.children()
        served.signal(signal.SIGKILL)
        served.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the workers have ended", 10)
