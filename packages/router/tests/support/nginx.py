"""A real nginx that lets in only who shows a certificate."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from trustme import CA

from support.certificates import bundle, chain, key
from support.processes import free_port, part_missing, process, wait_until
from support.servers import START_WITHIN

_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder};
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/tls.crt;
    ssl_certificate_key {folder}/tls.key;
    ssl_client_certificate {folder}/ca.pem;
    ssl_verify_client on;
    location / {{
      default_type application/json;
      return 200 '{{"object":"chat.completion","choices":[{{"message":{{"content":"x"}}}}]}}';
    }}
  }}
}}
"""


@contextlib.contextmanager
def running_nginx(folder: Path, authority: CA) -> Iterator[str]:
    """The address of an nginx for `localhost` that wants a certificate of `authority`, and answers a plain chat."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        part_missing("nginx is not installed (Debian: apt-get install nginx-light)")
    folder.mkdir()
    cert, port = authority.issue_cert("localhost"), free_port()
    (folder / "tls.crt").write_text(chain(cert))
    (folder / "tls.key").write_text(key(cert))
    (folder / "ca.pem").write_text(bundle(authority))
    (folder / "nginx.conf").write_text(_CONFIGURATION.format(folder=folder, port=port))
    with process([binary, "-e", "stderr", "-p", str(folder), "-c", f"{folder}/nginx.conf"], folder) as ran:
        wait_until(lambda: (folder / "nginx.pid").exists() or not ran.running(), "nginx listens", START_WITHIN)
        assert ran.running(), ran.stderr()
        yield f"https://localhost:{port}"
