"""The router and the mocked provider as processes of their own, and a client that keeps its connections."""

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.servers import ACME_KEY, REPOSITORY, START_WITHIN, Mock

COMMAND = str(Path(sys.executable).with_name("stratmaster-router"))
MOCK = REPOSITORY / "scripts" / "mock_openai.py"
STOP_WITHIN = 40.0  # seconds; longer than the router's own grace
ACME = {"Authorization": f"Bearer {ACME_KEY}", "X-Tenant-ID": "acme", "Content-Type": "application/json"}


def part_missing(reason: str) -> NoReturn:
    """A real part is not here: that skips a test on a developer's machine and fails it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = START_WITHIN) -> None:
    """Poll until `condition` holds; fails with `what` where it does not within `seconds`."""
    deadline = Deadline(seconds)
    while not condition():
        assert not deadline.passed(), f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


class Deadline:
    """A moment some seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def passed(self) -> bool:
        """Whether it has come."""
        return time.monotonic() >= self._at


def free_port() -> int:
    """A port that nothing listens on, below those that the kernel gives to outgoing connections."""
    while True:
        # Not `random`: it is seeded alike in every test process.
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def clean_environ(**changes: str) -> dict[str, str]:
    """This process's environment without what would configure a router, and with `changes`.

    Nor with a developer's habit that would have every process compile all modules anew: it takes seconds.
    """
    foreign = ("ROUTER_", "PROMETHEUS_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "COLUMNS": "200", "NO_COLOR": "1", **changes}


class Answer(NamedTuple):
    """A whole answer; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def worker(self) -> str:
        """Names the worker that answered: the part of the request id that all its answers share."""
        return self.headers["x-request-id"][:20]

    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


class Line:
    """One kept connection, and so always the same worker."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._connection = (
            http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            if tls is None
            else http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=tls)
        )

    def send(
        self, method: str, path: str, body: Mapping[str, Any] | bytes | None = None, headers: Mapping[str, str] = ACME
    ) -> None:
        """Send a request; `receive` gives its answer."""
        encoded = msgspec.json.encode(body) if isinstance(body, Mapping) else body
        self._connection.request(method, path, encoded, dict(headers))

    def response(self) -> http.client.HTTPResponse:
        """Wait for the head of the last request's answer; its body is the caller's to read."""
        return self._connection.getresponse()

    def receive(self) -> Answer:
        """Wait for the answer of the last request."""
        response = self.response()
        return Answer(response.status, {n.lower(): v for n, v in response.getheaders()}, response.read())

    def get(self, path: str, headers: Mapping[str, str] = ACME) -> Answer:
        """GET `path`."""
        self.send("GET", path, None, headers)
        return self.receive()

    def post(self, path: str, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] = ACME) -> Answer:
        """POST `body` to `path`."""
        self.send("POST", path, body, headers)
        return self.receive()

    def say_goodbye(self) -> None:
        """End TLS as its rules want it, without waiting for the other side to do so too."""
        secured = self._connection.sock
        assert isinstance(secured, ssl.SSLSocket)
        secured.settimeout(0)
        with contextlib.suppress(ssl.SSLError):
            secured.unwrap()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Process:
    """A process under test, with what it has printed so far."""

    def __init__(self, popen: subprocess.Popen[bytes], stdout: Path, stderr: Path) -> None:
        self._popen = popen
        self._stdout = stdout
        self._stderr = stderr

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def stdout(self) -> str:
        """What it printed on standard output."""
        return self._stdout.read_text()

    def stderr(self) -> str:
        """What it printed on standard error."""
        return self._stderr.read_text()

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def wait(self, seconds: float = STOP_WITHIN) -> int:
        """Wait for its end; the exit code."""
        return self._popen.wait(seconds)

    def terminate(self) -> int:
        """End it with SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def children(self) -> list[int]:
        """The process ids of its workers."""
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sorted(int(pid) for pid in listed if b"spawn_main" in _command_line(pid))

    def memory(self) -> int:
        """Its resident memory that no other process shares, in bytes."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "Private_Dirty":
                return int(rest.split()[0]) * 1024
        raise AssertionError("smaps_rollup has no Private_Dirty")

    def descriptors(self) -> int:
        """The number of its open files and sockets."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended since it was listed
        return b""


@contextlib.contextmanager
def process(
    arguments: list[str], folder: Path, environ: Mapping[str, str] | None = None, stdout: int | None = None
) -> Iterator[Process]:
    """Run `arguments` in `folder`; ended at the end, by force where it does not go at once when asked.

    `stdout` is a file descriptor to print to instead of a file of the test's.
    """
    printed = Path(tempfile.mkdtemp(prefix="process-"))
    out, err = printed / "stdout", printed / "stderr"
    with out.open("wb") as out_file, err.open("wb") as err_file:
        popen = subprocess.Popen(
            arguments,
            cwd=folder,
            env=clean_environ(**(environ or {})),
            stdin=subprocess.DEVNULL,
            stdout=out_file if stdout is None else stdout,
            stderr=err_file,
            start_new_session=True,
        )
    try:
        yield Process(popen, out, err)
    finally:
        if popen.poll() is None:
            popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(5)
        # The group, so that no worker is left over whatever became of its parent. A test's processes are its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        shutil.rmtree(printed)


class Ended(NamedTuple):
    """What became of a process."""

    returncode: int
    stdout: str
    stderr: str


def finished(
    arguments: list[str], folder: Path, environ: Mapping[str, str] | None = None, seconds: float = 30.0
) -> Ended:
    """Run `arguments` in `folder` to their end; fails where it does not come within `seconds`."""
    with process(arguments, folder, environ) as ran:
        return Ended(ran.wait(seconds), ran.stdout(), ran.stderr())


class Served(Process):
    """A running `stratmaster-router serve`; `policy` and `keys` are the file and the folder that it watches."""

    def __init__(self, ran: Process, port: int, folder: Path, tls: ssl.SSLContext | None) -> None:
        super().__init__(ran._popen, ran._stdout, ran._stderr)
        self.port = port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        self._tls = tls
        self.policy = folder / "policy.yaml"
        self.keys = folder / "keys"
        self._access_log = folder / "access.log"

    def access_log(self) -> str:
        """The access log so far, as text."""
        return self._access_log.read_text()

    def access_lines(self) -> list[dict[str, Any]]:
        """The access log so far; fails where a line is not whole."""
        return [msgspec.json.decode(line) for line in self.access_log().splitlines()]

    def replace_policy(self, text: str) -> None:
        """Put `text` in the place of the policy, in one step."""
        fresh = self.policy.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.policy)

    def call(self, method: str, path: str, body: Mapping[str, Any] | bytes | None = None) -> Answer:
        """One request of acme's over a connection of its own."""
        line = Line(self.port, self._tls)
        try:
            line.send(method, path, body)
            return line.receive()
        finally:
            line.close()

    def metrics(self) -> "Scrape":
        """A scrape, answered by any worker."""
        return Scrape(self.call("GET", "/internal/metrics").body.decode())

    @contextlib.contextmanager
    def lines(self, workers: int, each: int = 4) -> Iterator[dict[str, list[Line]]]:
        """Connections by the worker that serves them: `each` for every one of `workers` workers."""
        opened: list[Line] = []
        found: dict[str, list[Line]] = {}
        deadline = Deadline(START_WITHIN)
        try:
            while len(found) < workers or min(map(len, found.values())) < each:
                assert not deadline.passed(), f"{len(found)} of {workers} workers answer"
                # All are opened before any is answered, so that no worker is idle enough to take every one.
                fresh = [Line(self.port, self._tls) for _ in range(8 * workers)]
                opened += fresh
                with ThreadPoolExecutor(len(fresh)) as pool:  # a handshake waits for the worker
                    list(pool.map(lambda line: line.send("GET", "/healthz"), fresh))
                for line in fresh:
                    found.setdefault(line.receive().worker, []).append(line)
            yield {worker: lines[:each] for worker, lines in found.items()}
        finally:
            for line in opened:
                line.close()


_LABELS = ("tenant", "provider", "model", "code")


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str) -> float:
        """The sum of all samples called `name`."""
        return sum(sample.value for sample in self._samples if sample.name == name)

    def by_labels(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples called `name` that are not zero, by those of tenant, provider, model and code that they have."""
        return {
            tuple(sample.labels[label] for label in _LABELS if label in sample.labels): sample.value
            for sample in self._samples
            if sample.name == name and sample.value
        }


@contextlib.contextmanager
def serving(
    folder: Path,
    policy: str,
    *,
    workers: int = 1,
    environ: Mapping[str, str] | None = None,
    stdout: int | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Served]:
    """`stratmaster-router serve` over `policy`, with acme's key and an access log in `folder`, on a free port.

    `tls` is the client's side of https, where `environ` has the router serve it.
    """
    (folder / "keys").mkdir(exist_ok=True)
    (folder / "keys" / "acme").write_text(f"{ACME_KEY}\n")
    (folder / "policy.yaml").write_text(policy)
    port = free_port()
    arguments = [COMMAND, "serve", "--policy", "policy.yaml", "--host", "127.0.0.1", "--port", str(port)]
    given = {"ROUTER_KEYS_DIR": "keys", "ROUTER_ACCESS_LOG": str(folder / "access.log"), **(environ or {})}
    with process([*arguments, "--workers", str(workers)], folder, given, stdout) as ran:
        wait_until(lambda: healthy(port, tls=tls) or not ran.running(), "the router answers at /healthz")
        assert ran.running(), ran.stderr()
        yield Served(ran, port, folder, tls)


@contextlib.contextmanager
def mock_process(folder: Path) -> Iterator[Mock]:
    """`scripts/mock_openai.py` on a free port."""
    port = free_port()
    with process([sys.executable, str(MOCK), "--port", str(port)], folder) as ran:
        wait_until(lambda: healthy(port) or not ran.running(), "the mocked provider answers at /healthz")
        assert ran.running(), ran.stderr()
        yield Mock(f"http://127.0.0.1:{port}")


def healthy(port: int, path: str = "/healthz", tls: ssl.SSLContext | None = None) -> bool:
    """Whether `path` answers at `port`."""
    line = Line(port, tls)
    try:
        return line.get(path, {}).status == 200
    except OSError:
        return False
    finally:
        line.close()
