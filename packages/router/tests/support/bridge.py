"""The LiteLLM bridge as a process of its own, in the environment where LiteLLM is."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.emulated.base import Emulator
from support.processes import Answer, Line, Process, free_port, healthy, part_missing, process, wait_until
from support.servers import REPOSITORY

TOKEN = "bridge-token-0123456789"
START_WITHIN = 90.0  # seconds; importing LiteLLM alone takes 4 to 8 of processor time

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]


def bridge_python() -> str:
    """The Python in whose environment LiteLLM is."""
    python = REPOSITORY / ".venv-litellm" / "bin" / "python"
    if not python.exists():
        part_missing("LiteLLM is not installed: make .venv-litellm/.installed")
    return str(python)


def policy_of(entries: Mapping[str, str], models: Mapping[str, str]) -> str:
    """A policy of acme: provider `name` is `entries[name]` and has the task `name` with `models[name]`."""
    providers = "".join(f"  {name}: {entry}\n" for name, entry in entries.items())
    tenant = "".join(
        f"      {name}:\n        models:\n          {name}: {{default: '{model}'}}\n" for name, model in models.items()
    )
    return f"providers:\n{providers}tenants:\n  acme:\n    providers:\n{tenant}"


class Bridge:
    """A running bridge."""

    def __init__(self, port: int, ran: Process, policy: Path) -> None:
        self.port = port
        self.process = ran
        self.policy = policy
        self.url = f"http://127.0.0.1:{port}"

    def begin(self, provider: str, body: Any, endpoint: str = "chat/completions", token: str = TOKEN) -> Line:
        """Send a request on a connection of its own, and do not wait."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        line = Line(self.port)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        line.send("POST", f"/{provider}/v1/{endpoint}", sent, headers)
        return line

    def ask(self, provider: str, body: Any, endpoint: str = "chat/completions", token: str = TOKEN) -> Answer:
        """Send a request, and the whole of its answer."""
        with contextlib.closing(self.begin(provider, body, endpoint, token)) as line:
            return line.receive()

    def post(self, provider: str, body: Any, endpoint: str = "chat/completions") -> tuple[int, Any]:
        """Ask; status and JSON of the answer."""
        answer = self.ask(provider, body, endpoint)
        return answer.status, answer.json()

    def stream(self, provider: str, body: Any, endpoint: str = "chat/completions") -> list[Any]:
        """The events of a stream, decoded; the last is "[DONE]" where it is whole."""
        answer = self.ask(provider, {**body, "stream": True}, endpoint)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream"), answer.body
        events = answer.body.decode().split("\n\n")
        assert events.pop() == ""
        data = [event.removeprefix("data: ") for event in events]
        return [text if text == "[DONE]" else json.loads(text) for text in data]


@contextlib.contextmanager
def running_bridge(
    folder: Path, policy: str, environ: Mapping[str, str], command: Sequence[str] = ("-m", "stratmaster_router")
) -> Iterator[Bridge]:
    """A bridge over `policy` on a free port; `command` is what Python runs."""
    file = folder / "policy.yaml"
    file.write_text(policy)
    port = free_port()
    arguments = [*command, "litellm-bridge", "--policy", str(file), "--port", str(port)]
    # At the level at which most is logged, so that what must not be is not by luck.
    given = {"ROUTER_BRIDGE_TOKEN": TOKEN, "ROUTER_LOG_LEVEL": "debug", **environ}
    with process([bridge_python(), *arguments], folder, given) as ran:
        wait_until(lambda: healthy(port) or not ran.running(), "the bridge answers at /healthz", START_WITHIN)
        assert ran.running(), ran.stderr()
        yield Bridge(port, ran, file)


@contextlib.contextmanager
def bridged(folder: Path, emulators: Sequence[Emulator]) -> Iterator[Bridge]:
    """A bridge to all of `emulators`, each a provider by its `litellm_provider`."""
    with contextlib.ExitStack() as stack:
        for emulator in emulators:
            stack.enter_context(emulator.running())
        entries = {emulator.litellm_provider: emulator.policy_entry for emulator in emulators}
        models = {emulator.litellm_provider: emulator.model for emulator in emulators}
        environ = dict(secret for emulator in emulators for secret in emulator.secrets)
        yield stack.enter_context(running_bridge(folder, policy_of(entries, models), environ))


def bridges(router: int) -> list[int]:
    """The process ids of the bridges that a router runs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:  # it has ended since it was listed
                continue
            if b"litellm-bridge" in words and words[-2] == str(router).encode() and state != "Z":
                found.append(int(entry.name))
    return sorted(found)
