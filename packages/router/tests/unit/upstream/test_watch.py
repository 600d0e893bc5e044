"""Deadlines and disconnects on a real event loop, with short real times and no clock of the tests' own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Any

import pytest
from stratmaster_router.domain.errors import ClientDisconnected, DeadlineExceeded, Draining
from stratmaster_router.upstream.watch import PhaseExpired, Watch, Watchdog

PATIENCE = 10.0  # seconds until a test gives up
LATE = "The request took longer than its total deadline. Try again, or ask for less."
FOREVER = 3600.0


@pytest.fixture
def dog() -> Watchdog:
    """A watchdog of this test's own."""
    return Watchdog()


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    """No test waits for longer than `PATIENCE`."""
    async with asyncio.timeout(PATIENCE):
        yield


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a real condition."""
    ends = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < ends
        await asyncio.sleep(0.001)


async def ticks(dog: Watchdog, count: int) -> None:
    """Wait until the watchdog has surely ticked `count` times: a probe's phases of no length have expired."""
    for _ in range(count):
        watch = dog.watch()
        watch.phase(0)
        assert type(await meaning(watch)) is PhaseExpired
        watch.close()


async def meaning(watch: Watch, waiting: Awaitable[Any] | None = None) -> BaseException:
    """What the interruption meant that came while waiting for something that never comes."""
    try:
        await (asyncio.get_running_loop().create_future() if waiting is None else waiting)
    except asyncio.CancelledError as cancelled:
        return watch.interruption(cancelled)
    raise AssertionError("nothing interrupted")


class Client:
    """The `receive` of a client that goes away when the test says so."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.listening = 0

    async def receive(self) -> dict[str, Any]:
        """The next message of the client."""
        self.listening += 1
        try:
            return await self.messages.get()
        finally:
            self.listening -= 1

    def leave(self) -> None:
        """Go away."""
        self.messages.put_nowait({"type": "http.disconnect"})


async def test_phase_expires(dog: Watchdog) -> None:
    """A phase that takes too long is interrupted, not before its time, and the task is not left cancelled."""
    watch = dog.watch()
    began = monotonic()
    watch.phase(0.05)

    meant = await meaning(watch)

    assert type(meant) is PhaseExpired
    assert monotonic() - began >= 0.05
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    watch.close()


async def test_next_phase_counts_from_its_own_beginning(dog: Watchdog) -> None:
    """After an expired phase the request may go on, with a new phase that expires by itself."""
    watch = dog.watch()
    for _ in range(3):
        began = monotonic()
        watch.phase(0.03)
        assert type(await meaning(watch)) is PhaseExpired
        assert monotonic() - began >= 0.03
    watch.close()


async def test_new_phase_replaces_the_last(dog: Watchdog) -> None:
    """Of a phase that was followed by another nothing is left."""
    watch = dog.watch()
    watch.phase(0)
    watch.phase(FOREVER)

    await ticks(dog, 2)

    watch.close()


async def test_rest_ends_the_phase(dog: Watchdog) -> None:
    """While resting no phase runs."""
    watch = dog.watch()
    watch.phase(0)
    watch.rest()

    await ticks(dog, 2)

    watch.close()


async def test_interruption_leaves_no_phase_behind(dog: Watchdog) -> None:
    """After an expired phase nothing else expires until a new one begins."""
    watch = dog.watch()
    watch.phase(0)
    assert type(await meaning(watch)) is PhaseExpired

    await ticks(dog, 2)

    watch.close()


@pytest.mark.parametrize("phase", [None, FOREVER])
async def test_total_deadline_is_counted_from_the_beginning(dog: Watchdog, phase: float | None) -> None:
    """The total deadline ends a request that rests and one in a long phase alike, counted from its start."""
    watch = dog.watch()
    await until(lambda: monotonic() - watch.started >= 0.03)
    watch.end_by(0.06)
    if phase is None:
        watch.rest()
    else:
        watch.phase(phase)

    meant = await meaning(watch)

    assert (type(meant), str(meant)) == (DeadlineExceeded, LATE)
    assert monotonic() - watch.started >= 0.06
    watch.close()


async def test_phase_that_ends_with_the_total_deadline_is_the_deadline(dog: Watchdog) -> None:
    """When both have passed the request as a whole is over."""
    watch = dog.watch()
    watch.end_by(0)
    watch.phase(0)

    assert type(await meaning(watch)) is DeadlineExceeded
    watch.close()


async def test_phase_before_the_total_deadline_is_a_phase(dog: Watchdog) -> None:
    """The earlier of both decides."""
    watch = dog.watch()
    watch.end_by(FOREVER)
    watch.phase(0)

    assert type(await meaning(watch)) is PhaseExpired
    watch.close()


async def test_total_deadline_ends_again_what_goes_on(dog: Watchdog) -> None:
    """A deadline that has passed interrupts whatever is awaited afterwards too."""
    watch = dog.watch()
    watch.end_by(0)

    assert type(await meaning(watch)) is DeadlineExceeded
    assert type(await meaning(watch)) is DeadlineExceeded
    watch.close()


async def test_disconnect_is_noticed(dog: Watchdog) -> None:
    """When the client goes away the request is interrupted, whatever it waits for."""
    client = Client()
    watch = dog.watch()
    watch.listen(client.receive)
    watch.phase(FOREVER)
    waiting = asyncio.ensure_future(until(lambda: client.listening == 1))
    waiting.add_done_callback(lambda _: client.leave())

    meant = await meaning(watch)

    assert type(meant) is ClientDisconnected
    await waiting
    watch.close()


async def test_disconnect_before_anybody_listens_is_noticed(dog: Watchdog) -> None:
    """A client that left at once is noticed when the listening begins."""
    client = Client()
    client.leave()
    watch = dog.watch()
    watch.listen(client.receive)

    assert type(await meaning(watch)) is ClientDisconnected
    watch.close()


async def test_other_messages_are_no_disconnect(dog: Watchdog) -> None:
    """Bytes that come after the body say nothing; the disconnect behind them does."""
    client = Client()
    watch = dog.watch()
    watch.listen(client.receive)
    for _ in range(3):
        client.messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    await until(lambda: client.listening == 1 and client.messages.empty())
    client.leave()

    assert type(await meaning(watch)) is ClientDisconnected
    watch.close()


async def test_nobody_listens_to_a_client_before_the_body_was_read(dog: Watchdog) -> None:
    """Until `listen` the messages of the client are the body's reader's."""
    client = Client()
    client.leave()
    watch = dog.watch()

    await ticks(dog, 3)

    assert (client.listening, client.messages.qsize()) == (0, 1)
    watch.close()


async def test_disconnect_after_an_expired_phase_is_noticed(dog: Watchdog) -> None:
    """One interruption does not end the listening."""
    client = Client()
    watch = dog.watch()
    watch.listen(client.receive)
    await until(lambda: client.listening == 1)
    watch.phase(0)
    assert type(await meaning(watch)) is PhaseExpired

    client.leave()

    assert type(await meaning(watch)) is ClientDisconnected
    watch.close()


async def test_cancellation_from_outside_stays_one(dog: Watchdog) -> None:
    """A shutdown that cancels the request is not taken for a deadline."""
    watches: list[Watch] = []
    seen: list[tuple[type[BaseException], bool]] = []

    async def request() -> None:
        watch = dog.watch()
        watches.append(watch)
        watch.phase(FOREVER)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as cancelled:
            meant = watch.interruption(cancelled)
            seen.append((type(meant), meant is cancelled))
            raise meant from None
        finally:
            watch.close()

    task = asyncio.create_task(request())
    await until(lambda: len(watches) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (task.cancelled(), seen, len(dog)) == (True, [(asyncio.CancelledError, True)], 0)


@pytest.mark.parametrize("first", ["outside", "watchdog"])
async def test_cancellation_from_outside_wins_over_an_interruption_of_the_same_moment(
    dog: Watchdog, first: str
) -> None:
    """Both may come before the task runs again: the shutdown must not be lost as an expired phase."""
    started = asyncio.Event()
    watches: list[Watch] = []
    seen: list[type[BaseException]] = []

    async def request() -> None:
        watch = dog.watch()
        watches.append(watch)
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as cancelled:
            meant = watch.interruption(cancelled)
            seen.append(type(meant))
            raise meant from None
        finally:
            watch.close()

    task = asyncio.create_task(request())
    await started.wait()
    watches[0].phase(0)
    if first == "outside":
        task.cancel()
        watches[0].check(monotonic())
    else:
        watches[0].check(monotonic())
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert (seen, task.cancelled()) == ([asyncio.CancelledError], True)


async def test_nothing_comes_after_close(dog: Watchdog) -> None:
    """A closed watch interrupts nothing: neither its phase, nor its deadline, nor its client."""
    client = Client()
    watch = dog.watch()
    watch.listen(client.receive)
    await until(lambda: client.listening == 1)
    watch.end_by(0)
    watch.phase(0)
    watch.close()
    client.leave()

    await ticks(dog, 3)

    assert client.listening == 0
    assert len(dog) == 0


async def test_close_twice_is_once(dog: Watchdog) -> None:
    """Closing a closed watch does nothing."""
    watch = dog.watch()
    watch.close()
    watch.close()

    assert len(dog) == 0


async def test_watchdog_counts_the_requests_in_flight(dog: Watchdog) -> None:
    """Its length is the number of open watches."""
    counts = [len(dog)]
    first = dog.watch()
    counts.append(len(dog))
    second = dog.watch()
    counts.append(len(dog))
    first.close()
    counts.append(len(dog))
    second.close()
    counts.append(len(dog))

    assert counts == [0, 1, 2, 1, 0]


async def test_watchdog_ticks_again_after_a_pause(dog: Watchdog) -> None:
    """With no request in flight the timer stops; the next request starts it again."""
    loop = asyncio.get_running_loop()
    await ticks(dog, 1)
    idle = loop.time() + 0.1
    await until(lambda: loop.time() >= idle)

    await ticks(dog, 1)

    assert len(dog) == 0


async def test_only_the_request_whose_time_is_up_is_interrupted(dog: Watchdog) -> None:
    """Many requests under one timer: each has its own fate."""

    async def request(number: int) -> str:
        watch = dog.watch()
        client = Client()
        watch.listen(client.receive)
        if number % 3 == 0:
            watch.phase(0.03)
        elif number % 3 == 1:
            watch.end_by(0.03)
        else:
            client.leave()
        try:
            return type(await meaning(watch)).__name__
        finally:
            watch.close()

    fates = await asyncio.gather(*(request(number) for number in range(30)))

    assert fates == ["PhaseExpired", "DeadlineExceeded", "ClientDisconnected"] * 10
    assert len(dog) == 0


async def test_interruption_reaches_a_task_whose_wait_has_just_ended(dog: Watchdog) -> None:
    """What it waited for came in the same moment: the interruption still comes as one, and is still understood."""
    ready = asyncio.get_running_loop().create_future()
    watch = dog.watch()
    watch.phase(0)

    def both() -> None:
        ready.set_result(None)
        watch.check(monotonic())

    asyncio.get_running_loop().call_soon(both)

    assert type(await meaning(watch, ready)) is PhaseExpired
    watch.close()


async def test_end_interrupts_those_under_way_and_those_that_come_after(dog: Watchdog) -> None:
    """Once the watchdog has ended nobody goes on, whatever phase or deadline is left; each is told why."""

    async def request() -> tuple[type[BaseException], str]:
        watch = dog.watch()
        watch.end_by(FOREVER)
        watch.phase(FOREVER)
        meant = await meaning(watch)
        watch.close()
        return type(meant), str(meant)

    requests = [asyncio.create_task(request()) for _ in range(10)]
    await ticks(dog, 2)
    assert not any(task.done() for task in requests)
    dog.end()

    drained = (Draining, "The router was shut down before the answer was whole. Try again: another one answers.")
    assert await asyncio.gather(*requests) == [drained] * 10
    assert await request() == drained
    assert len(dog) == 0
