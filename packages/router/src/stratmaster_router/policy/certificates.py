"""The certificate files of a provider: read, judged, and kept as they were while they hold nothing usable."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from stratmaster_router.domain.routing import PemFile, TlsFiles
from stratmaster_router.policy.schema import TlsSpec

_SOON = timedelta(days=14)

ReadFile = Callable[[str], str]
"""The text of a secret or certificate file; raises OSError or UnicodeDecodeError."""

TlsTrouble = Callable[[TlsFiles], str | None]
"""Why no connection can be made with these files; None where one can."""


def certificates(
    spec: TlsSpec, read_file: ReadFile, judge_tls: TlsTrouble, former: TlsFiles | None
) -> tuple[TlsFiles | None, str | None]:
    """The files to use, or why there are none that can be used.

    A certificate and its key are two files, and whoever rotates them writes one first. Until they fit together again,
    what the same files held before (`former`) stays in use. An upstream is never called without the certificate that
    the policy asks for.
    """
    paths = {what: path for what, path in (("ca", spec.ca), ("cert", spec.cert), ("key", spec.key)) if path is not None}
    held: dict[str, PemFile] = {}
    trouble = None
    for what, path in paths.items():
        try:
            held[what] = PemFile(path, read_file(path))
        except (OSError, UnicodeDecodeError):
            trouble = trouble or f"tls.{what} file {path} cannot be read"
    files = TlsFiles(held.get("ca"), held.get("cert"), held.get("key"))
    trouble = trouble or judge_tls(files)
    if trouble is None:
        return files, None
    if former is not None and _paths(former) == paths:
        return replace(former, stale=trouble), None
    return None, trouble


def expiring(files: TlsFiles) -> Iterator[str]:
    """What to say of files whose certificates have expired or will within 14 days.

    Of a chain the first to expire counts; of several authorities the last, since a new one stands beside an old one.
    """
    # Not before there is a file: it takes 40 ms and 9 MB.
    from cryptography.x509 import load_pem_x509_certificates

    now = datetime.now(UTC)
    for what, file, decides in (("ca", files.ca, max), ("cert", files.cert, min)):
        if file is None:
            continue
        with suppress(ValueError):  # OpenSSL, which has judged the files, takes more than this
            end = decides(each.not_valid_after_utc for each in load_pem_x509_certificates(file.text.encode()))
            if end < now + _SOON:
                yield f"tls.{what} file {file.path} {'expired' if end < now else 'expires'} on {end:%Y-%m-%d}"


def _paths(files: TlsFiles) -> dict[str, str]:
    held = (("ca", files.ca), ("cert", files.cert), ("key", files.key))
    return {what: file.path for what, file in held if file is not None}
