"""What went wrong in a hop before it committed: its code, and why, in words that hold no address."""

import asyncio
import os
import socket
import ssl

import aiohttp

from stratmaster_router.domain.errors import StreamBroken
from stratmaster_router.upstream.attempts import HopFailed
from stratmaster_router.upstream.client import UpstreamResponse
from stratmaster_router.upstream.egress import EgressDenied
from stratmaster_router.upstream.stream import NETWORK_FAILURES, forget_frames
from stratmaster_router.upstream.tls import handshake_failed
from stratmaster_router.upstream.watch import PhaseExpired, Watch
from stratmaster_router.wire.answer import BadAnswer

_SLOW_CONNECT = "no connection within timeouts.connect"
# X509_V_ERR_HOSTNAME_MISMATCH and its kin for IP addresses: OpenSSL's words for these repeat the name.
_WRONG_NAME = (62, 64)


def meaning(
    failure: BaseException, response: UpstreamResponse | None, watch: Watch, *, connected: bool
) -> BaseException:
    """Translate what went wrong in a hop before it committed."""
    status = None if response is None else response.status
    if isinstance(failure, asyncio.CancelledError):
        meant = watch.interruption(failure)
        if isinstance(meant, PhaseExpired):
            if connected:
                return HopFailed("upstream_timeout", status, why="nothing within timeouts.first_byte or timeouts.idle")
            return HopFailed("upstream_connect_timeout", status, why=_SLOW_CONNECT)
        return meant
    if isinstance(failure, (BadAnswer, StreamBroken)):
        return HopFailed(failure.code, status)
    if isinstance(failure, aiohttp.ConnectionTimeoutError):
        return HopFailed("upstream_connect_timeout", why=_SLOW_CONNECT)
    if response is None and handshake_failed(failure):
        why = _tls_words(failure)
        forget_frames(failure)
        return HopFailed("upstream_tls_failed", why=why)
    if isinstance(failure, aiohttp.ClientConnectorError) and isinstance(failure.os_error, EgressDenied):
        return HopFailed("upstream_egress_denied", why="its name leads to no address that the policy permits")
    if isinstance(failure, (aiohttp.ClientConnectorError, UnicodeError)):  # a host name may not be encodable
        return HopFailed("upstream_connect_failed", why=_connect_words(failure))
    if isinstance(failure, NETWORK_FAILURES):
        forget_frames(failure)
        return HopFailed("upstream_disconnected", status, why="the connection broke before the answer was whole")
    return failure


def _tls_words(failure: BaseException) -> str:
    """Why TLS did not come about, as OpenSSL says it."""
    for error in (failure, getattr(failure, "certificate_error", None), getattr(failure, "os_error", None)):
        if isinstance(error, ssl.SSLCertVerificationError) and hasattr(error, "verify_code"):
            words = "it is for another name" if error.verify_code in _WRONG_NAME else error.verify_message
            return f"certificate verify failed: {words}"
    for error in (failure.__cause__, getattr(failure, "os_error", None), failure):
        if isinstance(error, ssl.SSLError) and error.reason:
            return error.reason.lower().replace("_", " ")
    return "no TLS"


def _connect_words(failure: BaseException) -> str:
    """Why there is no connection. An error's own text would name the address."""
    error = getattr(failure, "os_error", None)
    if error is None or isinstance(failure, aiohttp.ClientConnectorDNSError) or isinstance(error, socket.gaierror):
        return "name not resolved"
    return os.strerror(error.errno).lower() if error.errno else "no connection"
