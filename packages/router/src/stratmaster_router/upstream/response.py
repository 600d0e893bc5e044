"""Reading an upstream's response: what it means, within limits of size and time."""

import re
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from stratmaster_router.domain.errors import UpstreamRejected
from stratmaster_router.domain.routing import Hop, Provider
from stratmaster_router.upstream.attempts import CLIENT_FAULTS, HopFailed, failure_code
from stratmaster_router.upstream.client import UpstreamResponse
from stratmaster_router.upstream.watch import Watch

LARGEST_ANSWER = 128 * 1024 * 1024  # bytes of an answer that is held in memory until it is whole
_LARGEST_ERROR = 64 * 1024
_LONGEST_MESSAGE = 2_000


async def check_head(response: UpstreamResponse, hop: Hop, watch: Watch, *, stream: bool) -> bytes:
    """Judge a response's head and return its content type.

    Raises `UpstreamRejected` where the upstream says that the request is wrong, else `HopFailed` for whatever is not
    an answer: another status, another media type, a compressed body (identity was asked for, and what cannot be read
    cannot be metered).
    """
    if response.status != 200:
        raise await _refusal(response, hop, watch)
    declared: str = response.headers.get("Content-Type", "text/event-stream" if stream else "application/json")
    if not (declared.isascii() and declared.isprintable()):
        raise HopFailed("upstream_invalid_response", 200)
    if declared != "application/json":
        media_type = declared.partition(";")[0].strip().lower()
        fits = media_type == "text/event-stream" if stream else _is_json(media_type)
        if not fits:
            raise HopFailed("upstream_invalid_response", 200)
    elif stream:
        raise HopFailed("upstream_invalid_response", 200)
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise HopFailed("upstream_invalid_response", 200)
    return declared.encode("latin-1")


def _is_json(media_type: str) -> bool:
    return media_type == "application/json" or media_type.endswith("+json")


async def read_body(response: UpstreamResponse, hop: Hop, watch: Watch) -> bytes:
    """The whole body of an answer. Raises `HopFailed` where it is too large, and what reading raises."""
    content = response.content
    if content.is_eof():
        # A short answer has come whole with its head.
        return content.read_nowait()
    body = await _read(response, hop, watch, LARGEST_ANSWER)
    if len(body) > LARGEST_ANSWER:
        raise HopFailed("upstream_response_too_large", response.status)
    return body


async def _read(response: UpstreamResponse, hop: Hop, watch: Watch, most: int) -> bytes:
    """Read until the end or past `most` bytes; each read may take the provider's idle time."""
    read = response.content.readany
    idle = hop.provider.timeouts.idle
    chunks: list[bytes] = []
    size = 0
    while size <= most:
        watch.phase(idle)
        chunk = await read()
        if not chunk:
            break
        chunks.append(chunk)
        size += len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class _WireError(Struct):
    message: str | None = None
    param: str | None = None


class _WireErrorBody(Struct):
    error: _WireError


_decode_error = msgspec.json.Decoder(_WireErrorBody).decode


async def _refusal(response: UpstreamResponse, hop: Hop, watch: Watch) -> Exception:
    """The failure that a status other than 200 stands for."""
    status = response.status
    body = await _read(response, hop, watch, _LARGEST_ERROR)
    response.close()
    if status not in CLIENT_FAULTS:
        return HopFailed(failure_code(status), status, _retry_after(response))
    if not body.lstrip().startswith(b"{"):
        # Not the API's word on the request but that of a server before it. nginx ends a handshake well and then says
        # by such a page that it wants another client certificate.
        if b"SSL certificate" in body:
            return HopFailed(
                "upstream_tls_failed", status, why="it does not accept the client certificate, or wants one"
            )
        return HopFailed("upstream_invalid_response", status)
    try:
        error = _decode_error(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = _WireError()
    message = error.message or f"The provider rejected the request with status {status}."
    param = None if error.param is None else _scrubbed(error.param, hop.provider)
    return UpstreamRejected(_scrubbed(message, hop.provider), status, param=param)


def _scrubbed(text: str, provider: Provider) -> str:
    """An upstream's words without its address or our key, which some servers repeat."""
    ways = provider.reached_at
    hidden = [re.escape(way.api_key.value) for way in ways if way.api_key is not None]
    hidden.append(r"https?://\S+")
    addresses = [urlsplit(way.base_url) for way in ways]
    # Of one host with several ports the ports must not be left.
    hidden += [re.escape(address.netloc) for address in addresses]
    hidden += [re.escape(address.hostname or "") for address in addresses]
    pattern = "|".join(part for part in hidden if part)
    return re.sub(pattern, "…", text, flags=re.IGNORECASE)[:_LONGEST_MESSAGE]


def _retry_after(response: UpstreamResponse) -> float | None:
    """The upstream's wish in seconds: `retry-after-ms`, else `Retry-After` where it is a number."""
    for name, scale in (("retry-after-ms", 1000.0), ("Retry-After", 1.0)):
        value = response.headers.get(name, "")
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
            return float(value) / scale
    return None
