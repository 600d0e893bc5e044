"""Closed-loop load with wrk: each connection sends its next request when the last was answered."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .servers import http_once

SCRIPT = Path(__file__).with_name("post.lua")
_LINE = re.compile(r"^BENCH (\d+) (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Load:
    """What one run of wrk did. Latencies are wrk's, corrected for coordinated omission by wrk itself."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int  # connections that failed, timeouts, and answers of 400 and above

    @property
    def rate(self) -> float:
        """Requests a second that were answered well."""
        return (self.requests - self.errors) / self.seconds


@dataclass(frozen=True)
class Target:
    """Where to send load, and with which headers."""

    port: int
    headers: Mapping[str, str]
    path: str = "/v1/chat/completions"

    def request(self, body: bytes) -> bytes:
        """The whole request for a connection that is closed after it."""
        fields = {"Host": "127.0.0.1", "Connection": "close", **self.headers, "Content-Length": str(len(body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def chat_body(model: str, size: int, stream_as: str | None = None) -> bytes:
    """A chat request of about `size` bytes, as the `openai` client writes one: JSON without white space.

    `stream_as` makes it a streaming one by that user.
    """
    payload: dict[str, object] = {"model": model, "temperature": 0.2, "max_tokens": 64}
    if stream_as is not None:
        # Asking for usage makes the answer the same whether or not a gateway asks for it on its own behalf.
        payload |= {"stream": True, "stream_options": {"include_usage": True}, "user": stream_as}
    words = "The rate stays where it was, said the chair, and the minutes will say why. "

    def with_text(length: int) -> bytes:
        text = (words * (length // len(words) + 1))[:length]
        system = {"role": "system", "content": "You summarise minutes of meetings."}
        messages = [system, {"role": "user", "content": text}]
        return json.dumps({**payload, "messages": messages}, separators=(",", ":"), ensure_ascii=False).encode()

    return with_text(max(0, size - len(with_text(0))))


def probe(target: Target, body: bytes, timeout: float) -> str:
    """One request outside the measurement. Returns what is wrong with the answer, or nothing."""
    status, received = http_once(target.port, target.request(body), timeout)
    if status == 200 and b'"choices"' in received:
        return ""
    return f"answered {status}: {received[-300:].decode(errors='replace')}"


def wrk(target: Target, body: Path, connections: int, seconds: float) -> Load:
    """Load the target for `seconds`; never longer than that and 20 s."""
    binary = shutil.which("wrk")
    assert binary is not None, "checked by install.tools()"
    command = [binary, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "--latency"]
    for name, value in target.headers.items():
        command += ["-H", f"{name}: {value}"]
    command += ["-s", str(SCRIPT), f"http://127.0.0.1:{target.port}{target.path}"]
    done = subprocess.run(
        command,
        env={**os.environ, "BENCH_BODY": str(body)},
        capture_output=True,
        text=True,
        timeout=seconds + 20,
        check=True,
    )
    line = _LINE.search(done.stdout)
    if line is None:
        raise RuntimeError(f"wrk said nothing that can be read: {done.stdout[-500:]}{done.stderr[-500:]}")
    requests, duration_us, p50_us, p99_us, errors = map(int, line.groups())
    return Load(requests, duration_us / 1e6, p50_us / 1000, p99_us / 1000, errors)
