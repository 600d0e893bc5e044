"""One request as the hops that redact may see it, and their answers as the client may."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import re2

from stratmaster_router.domain.routing import Endpoint, Hop
from stratmaster_router.domain.usage import Usage
from stratmaster_router.gateway.stages import AnswerStream
from stratmaster_router.privacy.detect import Detector
from stratmaster_router.privacy.outgoing import Redacted, redact
from stratmaster_router.privacy.restore import StreamRestorer, answers_in_json, restore_answer
from stratmaster_router.upstream.stream import UpstreamStream
from stratmaster_router.upstream.trip import Reply
from stratmaster_router.wire.envelope import Envelope

Patterns = Mapping[str, "re2._Regexp"]

# Bytes from which on a thread does it, so that the loop is never held up for a millisecond.
_LONG_REQUEST = 8 * 1024
_LONG_ANSWER = 32 * 1024


class Detectors:
    """The detectors of the hops of one policy, each made once."""

    def __init__(self) -> None:
        self._patterns: Patterns = {}
        self._made: dict[tuple[str, ...], Detector] = {}

    def of(self, patterns: Patterns, names: tuple[str, ...]) -> Detector:
        """What finds `names`: kinds, and some of `patterns`, which are the policy's own."""
        if patterns is not self._patterns:
            self._patterns, self._made = patterns, {}
        made = self._made.get(names)
        if made is None:
            custom = {name: pattern for name, pattern in patterns.items() if name in names}
            made = self._made[names] = Detector(frozenset(names), custom)
        return made


class Redaction:
    """What has been made of one request: once for all hops that redact the same, when the first of them is tried."""

    __slots__ = ("_detector", "_endpoint", "_envelope", "_made")

    def __init__(self, endpoint: Endpoint, envelope: Envelope, detector: Callable[[tuple[str, ...]], Detector]) -> None:
        self._endpoint = endpoint
        self._envelope = envelope
        self._detector = detector
        self._made: dict[tuple[str, ...], Redacted] = {}

    async def of(self, hop: Hop) -> Redacted:
        """The request for `hop`. Raises `Unsearchable`, and whatever a failing detector raises.

        Two hops that are asked side by side get the same: placeholders follow from the texts alone.
        """
        made = self._made.get(hop.redact)
        if made is None:
            work = partial(redact, self._endpoint, self._envelope, self._detector(hop.redact))
            made = await asyncio.to_thread(work) if len(self._envelope.body) >= _LONG_REQUEST else work()
            self._made[hop.redact] = made
        return made

    async def restored(self, reply: Reply) -> tuple[bytes | None, AnswerStream | None]:
        """The body or the stream of `reply` with the data that its hop was not sent."""
        made = self._made[reply.hop.redact]
        if not made.values or self._endpoint is Endpoint.EMBEDDINGS:
            return reply.body, reply.stream
        json_content = answers_in_json(self._envelope.fields)
        if reply.stream is not None:
            return None, RestoredStream(reply.stream, StreamRestorer(made.values, json_content=json_content))
        assert reply.body is not None
        work = partial(restore_answer, reply.body, made.values, json_content=json_content)
        return await asyncio.to_thread(work) if len(reply.body) >= _LONG_ANSWER else work(), None

    def summary(self, hop: Hop) -> str:
        """How many different values of each kind `hop` was not sent, such as `card=1,email=2`; empty where none."""
        return ",".join([f"{kind}={count}" for kind, count in sorted(self._made[hop.redact].found.items())])


class RestoredStream:
    """The stream of a hop that redacts. What is metered is what the provider sent: its placeholders."""

    def __init__(self, stream: UpstreamStream, restorer: StreamRestorer) -> None:
        self._stream = stream
        self._restorer = restorer

    @property
    def least(self) -> int:
        """Output tokens that there must have been so far."""
        return self._stream.least

    @property
    def usage(self) -> Usage | None:
        """The usage that the upstream has reported so far."""
        return self._stream.usage

    def text(self) -> str:
        """The text of the answer so far, as the provider sent it."""
        return self._stream.text()

    async def next(self) -> bytes:
        """As `UpstreamStream.next`."""
        while events := await self._stream.next():
            restored = self._restorer.feed(events)
            if restored:
                return restored
        return self._restorer.end()

    def flush(self) -> bytes:
        """What is held back of a stream that was cut: the beginning of a placeholder is shown as it came."""
        return self._restorer.flush()

    def close(self) -> None:
        """As `UpstreamStream.close`."""
        self._stream.close()
