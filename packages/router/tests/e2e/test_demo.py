import contextlib
import http.server
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import COMMAND, MOCK, Line, finished, free_port, process, wait_until

CALLS = [
    ("chat", "200", "primary", "gpt-4.1", "1"),
    ("stream", "200", "primary", "gpt-4.1", "1"),
    ("embedding", "200", "primary", "text-embedding-3-small", "1"),
    ("models", "200", "–", "–", "–"),
    ("refused: a raw document", "403", "–", "–", "0"),
    ("failover", "200", "backup", "gpt-4o-mini", "3"),  # the first provider is tried twice
]


def rows(output: str) -> list[tuple[str, ...]]:
    """The cells of the table in `output`, without its head."""
    lines = [line for line in output.splitlines() if line.startswith("│")]
    return [tuple(cell.strip() for cell in line.strip("│").split("│")) for line in lines]


def test_demo_shows_that_each_call_did_what_it_should(tmp_path: Path) -> None:
    """`demo --once` makes six calls, shows what came of each with a curl line for it, and exits with 0."""
    port = free_port()
    arguments = ["demo", "--once", "--port", str(port), "--mock-port", str(free_port()), "--mock", str(MOCK)]
    ended = finished([COMMAND, *arguments], tmp_path)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert [(*row[:5], row[6]) for row in rows(ended.stdout)] == [(*call, "yes") for call in CALLS]
    assert ended.stdout.count(f"curl -sN http://127.0.0.1:{port}/v1/") == 6
    assert list(tmp_path.iterdir()) == []


def test_demo_exits_with_1_without_the_mock(tmp_path: Path) -> None:
    """Away from the repository the demo says what to do."""
    ended = finished([COMMAND, "demo", "--once"], tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "scripts/mock_openai.py is not here: run the demo from the repository, with `make demo`.\n"


def test_demo_exits_with_1_when_the_mock_does_not_come_up(tmp_path: Path) -> None:
    """A mock that ends at once is an answer in words, not a wait for it."""
    (tmp_path / "mock.py").write_text("raise SystemExit(3)\n")
    arguments = ["demo", "--once", "--port", str(free_port()), "--mock-port", str(free_port()), "--mock", "mock.py"]
    ended = finished([COMMAND, *arguments], tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "mock.py" in ended.stderr
    assert "did not come up" in ended.stderr
    assert "Traceback" not in ended.stderr


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def stranger() -> Iterator[int]:
    """Another program's server, which answers 200 to everything; its port."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Healthy) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_demo_does_not_take_another_program_for_its_own(tmp_path: Path) -> None:
    """Where another program answers on the router's port the demo says so and exits with 1."""
    with stranger() as port:
        arguments = ["demo", "--once", "--port", str(port), "--mock-port", str(free_port()), "--mock", str(MOCK)]
        ended = finished([COMMAND, *arguments], tmp_path)
    assert ended.returncode == 1
    assert rows(ended.stdout) == []
    assert "Traceback" not in ended.stderr
    assert str(port) in ended.stderr


def test_demo_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    """Without `--once` the router and the mock go on; Ctrl-C ends all three, quietly and with 0."""
    port, mock_port = free_port(), free_port()
    arguments = ["demo", "--port", str(port), "--mock-port", str(mock_port), "--mock", str(MOCK)]
    with process([COMMAND, *arguments], tmp_path, {"PYTHONUNBUFFERED": "1"}) as demo:
        wait_until(lambda: "until Ctrl-C" in demo.stdout(), "the demo says that it serves")
        for each in (port, mock_port):
            line = Line(each)
            assert line.get("/healthz").status == 200
            line.close()

        demo.signal(signal.SIGINT)
        assert (demo.wait(), demo.stderr()) == (0, "")
        for each in (port, mock_port):
            line = Line(each)
            with pytest.raises(ConnectionRefusedError):
                line.get("/healthz")
