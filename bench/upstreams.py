"""The upstreams behind every gateway: a static nginx for plain answers, a paced SSE server for streams."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .servers import NotStarted, Server, free_port, running

MODEL = "bench-model"
CHUNKS = 200  # of each stream; as in sse_upstream.py, which runs by itself

# A usual answer of some 0.5 KB, with usage: gateways that read it must find what they expect.
COMPLETION = json.dumps(
    {
        "id": "chatcmpl-bench000000000000000000001",
        "object": "chat.completion",
        "created": 1790000000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The committee keeps the rate and says why. " * 4},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 57, "completion_tokens": 40, "total_tokens": 97},
        "system_fingerprint": "fp_bench",
    }
)
MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "bench"}]})
# What a worker router (smg) asks of an inference server before it sends it anything.
MODEL_INFO = json.dumps({"model_path": MODEL, "served_model_name": MODEL, "is_generation": True})
INFO_PATHS = ("/get_model_info", "/model_info", "/get_server_info", "/server_info")

_COMMON = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  default_type application/json;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_body_buffer_size 1m;
  client_max_body_size 32m;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  tcp_nodelay on;
{servers}
}}
"""


def nginx(folder: Path, name: str, servers: str) -> list[str]:
    """Return the command of an nginx with these `server` blocks, its configuration written to `folder`."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        raise NotStarted("nginx is not installed (Debian: apt-get install nginx-light)")
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    configuration = place / "nginx.conf"
    configuration.write_text(_COMMON.format(folder=place, servers=servers))
    return [binary, "-p", str(place), "-c", str(configuration), "-e", "stderr"]


@contextlib.contextmanager
def static(folder: Path) -> Iterator[Server]:
    """Run an nginx that answers every POST with COMPLETION; it reads the request body and throws it away."""
    port = free_port()
    places = "\n".join(f"    location = {path} {{ return 200 '{MODEL_INFO}'; }}" for path in INFO_PATHS)
    block = f"""  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 '{COMPLETION}'; }}
    location = /health {{ return 200 '{{}}'; }}
    location = /v1/models {{ return 200 '{MODELS}'; }}
{places}
  }}"""
    command = nginx(folder, "static", block)
    with running(command, port=port, health="/health", log=folder / "static.log", patience_s=10) as server:
        yield server


@contextlib.contextmanager
def paced(folder: Path, interval_ms: float) -> Iterator[Server]:
    """Run the SSE server of `sse_upstream.py`: 200 chunks a stream, one each `interval_ms`."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("sse_upstream.py")), str(port), str(interval_ms)]
    with running(command, port=port, health="/health", log=folder / "paced.log", patience_s=10) as server:
        yield server
