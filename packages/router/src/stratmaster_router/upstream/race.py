"""Asks the next hop too where one takes long, and takes the answer that comes first."""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

from msgspec import Struct

from stratmaster_router.upstream.attempts import Step
from stratmaster_router.upstream.trip import Exposure, Hold, Reply, Trip
from stratmaster_router.upstream.watch import Overtaken, Watch

CANCELLED = "cancelled"
"""The code of an attempt that another one was faster than."""


class Leg(Struct):
    """A hold on its way from hop to hop; `began` is of `perf_counter`, of the attempt under way.

    `raced`: another hop is asked at the same time, so it is for the race to record which of them has answered.
    """

    watch: Watch
    hold: Hold
    exposure: Exposure = Exposure.NOTHING
    began: float = 0.0
    raced: bool = False


Ask = Callable[[Step, Leg], Awaitable[Reply | None]]
"""Asks a step's hop: its answer, or None where it has failed, which is noted in the trip."""


class Race:
    """A hop, and the one after it, the hedge.

    The first is asked in the request's own task, because nearly always it answers in time, and a task and a watch of
    its own would cost a fifth of all that a request does. Only the hedge has them.
    """

    __slots__ = ("_ask", "_hedge", "_main", "_may_win", "_step", "_task", "_trip")

    def __init__(self, ask: Ask, main: Leg, trip: Trip, step: Step) -> None:
        """`main` is the request's own leg, which goes to `step`."""
        self._ask = ask
        self._main = main
        self._trip = trip
        self._step = step
        self._hedge: Leg | None = None
        self._task: asyncio.Task[Reply | None] | None = None
        self._may_win = True

    async def run(self, after: float) -> Reply | None:
        """Ask the first hop, and where it has not answered after `after` seconds the hedge too.

        The first to answer wins, and the other one is cancelled. None where nobody answered. What the hedge raises
        waits for the first hop: what the one does not take, the other may. Raises what asking raises.
        """
        main, trip = self._main, self._trip
        began, waited = perf_counter(), trip.upstream_seconds
        main.began = 0.0
        # Not a timer of its own: making and cancelling one costs more than all the rest of a hedge that is not needed.
        main.watch.call_after(after, self._start)
        reply: Reply | None = None
        wanted = False
        try:
            try:
                reply = await self._ask(self._step, main)
            except Overtaken:
                pass
            finally:
                main.watch.call_nobody()
                self._may_win = False
            if self._task is None:
                return reply
            if reply is None:
                main.watch.rest()
                await self._wait_for(self._task)
                wanted = True
        finally:
            if self._task is not None:
                try:
                    taken = await self._join(self._task, reply, wanted=wanted)
                finally:
                    # It keeps its exception, whose frames keep this one's variables.
                    self._task = None
                    main.raced = False
                    # Not the sum: they ran side by side.
                    trip.upstream_seconds = waited + perf_counter() - began
        return taken

    def _start(self) -> None:
        """Ask the hedge; called where the first hop takes long."""
        main = self._main
        if not main.began:
            return  # what waits for its limits is not slow, and has nothing yet that the other one could share
        main.raced = True
        self._hedge = Leg(main.watch, main.hold.fork(), raced=True)
        self._task = asyncio.create_task(self._ask_hedge(self._hedge))
        self._task.add_done_callback(self._overtake)

    async def _ask_hedge(self, leg: Leg) -> Reply | None:
        with leg.watch.fork() as leg.watch:
            return await self._ask(Step(self._step.hop + 1), leg)

    def _overtake(self, task: asyncio.Task[Reply | None]) -> None:
        if self._may_win and not task.cancelled() and task.exception() is None and task.result() is not None:
            self._main.watch.interrupt(Overtaken)

    async def _wait_for(self, task: asyncio.Task[Reply | None]) -> None:
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as cancelled:
            raise self._main.watch.interruption(cancelled) from None

    async def _join(self, task: asyncio.Task[Reply | None], reply: Reply | None, *, wanted: bool) -> Reply | None:
        """End the hedge's `task`, and let one hold be left, whatever happens meanwhile.

        `reply` is the first hop's. `wanted`: it has none, so the answer of the hedge is returned, or what that has
        raised is raised on. Whose answer is taken is recorded last.
        """
        main, hedge = self._main, self._hedge
        assert hedge is not None
        late = await _stop(task)
        failure = None if task.cancelled() else task.exception()
        other = None if task.cancelled() or failure is not None else task.result()
        won = wanted and late is None and (other is not None or failure is not None)
        main.hold.join(hedge.hold, main.exposure, hedge.exposure, won=won)
        if won:
            main.exposure = hedge.exposure
        elif other is not None:
            self._drop(Step(self._step.hop + 1), hedge, other)
        if late is not None:
            if reply is not None:
                self._drop(self._step, main, reply)
            try:
                raise main.watch.interruption(late) from None
            finally:
                del late
        if failure is not None and won:
            try:
                raise failure
            finally:
                del failure
        if won and other is not None:
            self._trip.record(Step(self._step.hop + 1), other.hop, hedge.began, 200, None)
            if other.stream is not None:
                other.stream.watched_by(main.watch)
            main.watch.continue_as(hedge.watch)
            return other
        if reply is not None:
            self._trip.record(self._step, reply.hop, main.began, 200, None)
        return reply

    def _drop(self, step: Step, leg: Leg, reply: Reply) -> None:
        """Let go of an answer that came too late: two may come in one moment, and nobody may be left to have it."""
        self._trip.record(step, reply.hop, leg.began, None, CANCELLED)
        if reply.stream is not None:
            reply.stream.close()


async def _stop(task: asyncio.Task[Reply | None]) -> asyncio.CancelledError | None:
    """Cancel `task` and wait for its end; the cancellation of the current task that came meanwhile."""
    late: asyncio.CancelledError | None = None
    if not task.done():
        task.cancel()
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as cancelled:
            late = cancelled
    return late
