"""Deadlines and disconnects of every request in flight, by one timer.

A timer and a listening task for each request would cost more CPU than the rest of the router's own work. So one
timer ticks while there are requests: it interrupts those whose deadline has passed, and it starts to listen for the
client's disconnect where a request has lasted longer than a tick. An interruption is a cancellation of the request's
task; `Watch.interruption` tells what it meant.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic
from typing import Any

from stratmaster_router.domain.errors import ClientDisconnected, DeadlineExceeded, Draining

TICK = 0.025  # seconds: deadlines and disconnects are noticed this much late at the most

Receive = Callable[[], Awaitable[Any]]


class PhaseExpired(Exception):
    """The current phase (first byte, idle, …) took too long; the request as a whole may go on."""


class Overtaken(Exception):
    """Another attempt has answered the request before this one."""


class Watch:
    """Watches over one request; made by `Watchdog.watch`, to be closed when the request ends.

    `started` is when the request began, in seconds of the monotonic clock.
    """

    __slots__ = (
        "_alarm",
        "_alarm_at",
        "_attempt_ends",
        "_cause",
        "_deadline",
        "_dog",
        "_ends",
        "_listener",
        "_receive",
        "_task",
        "started",
    )

    def __init__(self, dog: "Watchdog", task: asyncio.Task[Any], now: float) -> None:
        self._dog = dog
        self._task = task
        self._receive: Receive | None = None
        self._listener: asyncio.Task[None] | None = None
        self._cause: type[Exception] | None = None
        self.started = now
        self._ends = float("inf")
        self._attempt_ends = float("inf")
        self._deadline = float("inf")
        self._alarm: Callable[[], None] | None = None
        self._alarm_at = 0.0

    def end_by(self, seconds: float) -> None:
        """Set the total deadline, counted from the request's beginning."""
        self._ends = self.started + seconds
        self._deadline = min(self._deadline, self._ends)

    @contextlib.contextmanager
    def fork(self) -> Iterator["Watch"]:
        """A watch over the current task, which does a part of the request: it has the same total deadline."""
        watch = self._dog.watch(part=True)
        watch._ends = watch._deadline = self._ends
        try:
            yield watch
        finally:
            watch.close()
            del watch._task  # which keeps the exception that ended it, whose frames keep this watch

    def continue_as(self, fork: "Watch") -> None:
        """Go on with the attempt that `fork` has watched over."""
        self._attempt_ends = fork._attempt_ends

    def left(self) -> float:
        """Seconds until the total deadline."""
        return self._ends - monotonic()

    def attempt(self, seconds: float) -> None:
        """Begin an attempt whose phases may last `seconds` in all."""
        self._attempt_ends = monotonic() + seconds

    def phase(self, seconds: float) -> None:
        """Begin a phase that may last `seconds` from now."""
        self._deadline = min(self._ends, self._attempt_ends, monotonic() + seconds)

    def commit(self) -> None:
        """The attempt has become the answer: from now on its deadline is the request's, and no phase runs."""
        self._deadline = self._ends = min(self._ends, self._attempt_ends)

    def rest(self) -> None:
        """End the phase; only the total deadline is left."""
        self._deadline = self._ends

    def call_after(self, seconds: float, alarm: Callable[[], None]) -> None:
        """Call `alarm` once, so many seconds from now and a tick later at the most; it takes the place of a former."""
        self._alarm, self._alarm_at = alarm, monotonic() + seconds

    def call_nobody(self) -> None:
        """Forget the alarm."""
        self._alarm = None

    def listen(self, receive: Receive) -> None:
        """From now on notice when the client goes away. The request's body must have been read."""
        self._receive = receive

    def close(self) -> None:
        """End the watch: nothing is interrupted after this."""
        self._dog.forget(self)
        if self._listener is not None:
            # Let go too: the task keeps its CancelledError, whose traceback has the frame that holds this watch.
            self._listener.cancel()
            self._listener = None

    def interruption(self, cancelled: asyncio.CancelledError) -> BaseException:
        """What a cancellation that the request's task has just caught meant.

        Returns `ClientDisconnected`, `DeadlineExceeded`, `Draining`, `PhaseExpired` or `Overtaken` where this watch
        caused it, else `cancelled` itself, which the caller raises on.
        """
        cause = self._cause
        if cause is None:
            return cancelled
        self._cause = None
        self._deadline = self._ends
        if self._task.uncancel() > 0:
            return cancelled  # somebody else cancelled the task in the same moment
        if cause is DeadlineExceeded:
            return DeadlineExceeded("The request took longer than its total deadline. Try again, or ask for less.")
        if cause is Draining:
            return Draining("The router was shut down before the answer was whole. Try again: another one answers.")
        return cause()

    def check(self, now: float) -> None:
        """Called at every tick, with the time of the monotonic clock."""
        if self._dog.ended:
            self.interrupt(Draining)
        elif now >= self._deadline:
            self.interrupt(DeadlineExceeded if now >= self._ends else PhaseExpired)
        elif self._receive is not None and self._listener is None and now - self.started >= TICK:
            self._listener = asyncio.create_task(self._listen(self._receive))
        if self._alarm is not None and now >= self._alarm_at:
            alarm, self._alarm = self._alarm, None
            alarm()

    def interrupt(self, cause: type[Exception]) -> None:
        """Cancel the task, which is to learn `cause` by `interruption`; nothing while it has not learnt another."""
        if self._cause is None:
            self._cause = cause
            self._task.cancel()

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self._dog.watches(self):
            self.interrupt(ClientDisconnected)


class Watchdog:
    """The one timer, and the requests that it watches. `ended`: requests are no longer let go on."""

    def __init__(self) -> None:
        self.ended = False
        self._open: set[Watch] = set()
        self._parts: set[Watch] = set()
        self._ticking = False

    def __len__(self) -> int:
        """The number of requests in flight."""
        return len(self._open)

    def watch(self, *, part: bool = False) -> Watch:
        """Begin to watch the request that the current task serves, or does a `part` of."""
        task = asyncio.current_task()
        assert task is not None
        watch = Watch(self, task, monotonic())
        (self._parts if part else self._open).add(watch)
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(TICK, self._tick)
        return watch

    def end(self) -> None:
        """Interrupt every request that is under way, and any that begins after this."""
        self.ended = True

    def watches(self, watch: Watch) -> bool:
        """Whether `watch` is still open."""
        return watch in self._open or watch in self._parts

    def forget(self, watch: Watch) -> None:
        """Stop watching; used by `Watch.close`."""
        self._open.discard(watch)
        self._parts.discard(watch)

    def _tick(self) -> None:
        if not self._open:
            self._ticking = False
            return
        # First, so that whatever one request's check or alarm raises, the deadlines of all others are kept.
        asyncio.get_running_loop().call_later(TICK, self._tick)
        now = monotonic()
        for watch in [*self._open, *self._parts]:
            watch.check(now)
