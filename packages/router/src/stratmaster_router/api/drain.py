"""The end of a worker, so that nobody loses an answer: what a signal sets going.

Readiness fails at the signal. For the delay new connections are still accepted and every request is served, because
load balancers need that long to notice; each answer asks for its connection to be closed. Then the server stops
accepting and closes what is idle. What is still under way at the timeout ends with the error `draining`: a stream with
an event, never by a cut that might look complete. Another signal brings all of this about at once.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Collection
from types import FrameType

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stratmaster_router.upstream.watch import Watchdog

# By which a supervisor tells a worker to end at once. It is not SIGTERM or SIGINT again, which a worker may well get
# twice for one wish: from the supervisor, and from a terminal or an init system that signals the whole group.
END_AT_ONCE = signal.SIGUSR1
_LAST_BYTES = 2.0  # seconds for clients to read the error that ended their request, before their connections are cut

Handler = Callable[[int, FrameType | None], object]

log = structlog.stdlib.get_logger("stratmaster_router")


class Drain:
    """The end of one worker. `begun` is whether it has; `connections` are those that the server has open."""

    def __init__(self, watchdog: Watchdog, delay: float, timeout: float, *, supervised: bool) -> None:
        """`delay` is in seconds from the signal, `timeout` in seconds after that.

        `supervised`: another process handles what a terminal sends, and says by `END_AT_ONCE` when it is enough.
        """
        self.begun = False
        self.connections: Collection[HttpToolsProtocol] = ()
        self._watchdog = watchdog
        self._delay = delay
        self._timeout = timeout
        self._supervised = supervised
        self._stop_accepting: Callable[[], object] | None = None

    def listen(self) -> None:
        """Take the server's place at the signals. Needs a running loop, and the server's own handlers in force."""
        if threading.current_thread() is not threading.main_thread():
            return  # an embedding test; signals are the main thread's
        loop = asyncio.get_running_loop()
        server_handler = signal.getsignal(signal.SIGTERM)

        def signalled(number: int, _: FrameType | None) -> None:
            # The loop may be asleep, and a handler may come between any two steps of it.
            loop.call_soon_threadsafe(self._signalled, number, server_handler)

        signal.signal(signal.SIGTERM, signalled)
        signal.signal(signal.SIGINT, signal.SIG_IGN if self._supervised else signalled)
        if self._supervised:
            signal.signal(END_AT_ONCE, signalled)

    def close(self) -> None:
        """Stop listening to what the server will not take back itself, before the loop is closed."""
        if self._supervised and threading.current_thread() is threading.main_thread():
            signal.signal(END_AT_ONCE, signal.SIG_IGN)

    def _signalled(self, number: int, server_handler: object) -> None:
        again = self.begun
        if not again and callable(server_handler):
            # Called once only: on another SIGINT uvicorn would leave without settling anything.
            self._begin(lambda: server_handler(signal.SIGTERM, None))
        if number == END_AT_ONCE or (again and not self._supervised):
            self._end_all()

    def _begin(self, stop_accepting: Callable[[], object]) -> None:
        self.begun = True
        self._stop_accepting = stop_accepting
        log.info("draining", requests=len(self._watchdog), delay=self._delay, timeout=self._timeout)
        for connection in self.connections:
            if connection.cycle is not None:
                connection.cycle.keep_alive = False
        loop = asyncio.get_running_loop()
        loop.call_later(self._delay, self._stop)
        loop.call_later(self._delay + self._timeout, self._end_all)

    def _stop(self) -> None:
        if self._stop_accepting is not None:
            self._stop_accepting()
            self._stop_accepting = None

    def _end_all(self) -> None:
        self._stop()
        if not self._watchdog.ended:
            log.warning("ending what is still under way", requests=len(self._watchdog))
            self._watchdog.end()
            asyncio.get_running_loop().call_later(_LAST_BYTES, self._cut)

    def _cut(self) -> None:
        for connection in list(self.connections):
            connection.transport.abort()
