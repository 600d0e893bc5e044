"""Reserves for requests and keeps this process's leases in step with the database.

One transaction an interval while there is something to say, with the ledger rows of the same requests in it. What a
lease cannot meet waits for an exchange of its own, and all that wait share it.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence

import structlog

from stratmaster_router.domain.errors import LimitExceeded, LimitStoreUnavailable, RequestExceedsLimit, RouterError
from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.domain.money import dollars
from stratmaster_router.limits.accounts import SECOND, Batch, Outcome, window_end
from stratmaster_router.limits.leases import Lease, Leases, Needs
from stratmaster_router.limits.store import LEASE, LimitStore, StoreUnavailable

INTERVAL = 0.2  # seconds between exchanges
# Exchanges of an idle process: its lease is renewed, and it hears of what others lack.
_IDLE = 2.5 * INTERVAL
# Exchanges out of turn, for requests that wait: a burst of so many, and as many more as intervals have passed.
_BURST = 20.0
_ANSWER_WITHIN = 2.0
_RETRY = 0.5
# What is refused only because requests under way have reserved it is waited for: seconds by metric.
_PATIENCE = {Metric.USD: 2.0, Metric.TOKENS: 2.5 * INTERVAL, Metric.PARALLEL: 2.5 * INTERVAL, Metric.REQUESTS: 0.0}
# What sleeps elsewhere comes back once its holder has heard of it.
_RECALL_PATIENCE = 2 * _IDLE + 5 * INTERVAL  # twice what it takes, for machines that are busy
_MOST_ROWS = 10_000  # in one exchange
# An outage must not fill the memory, and a ledger loses nothing: requests are refused from here on.
_MOST_PENDING_ROWS = 200_000
_LEAVE_WITHIN = 5.0

log = structlog.stdlib.get_logger("stratmaster_router")


class _Waiting:
    """A request that waits for the database."""

    __slots__ = ("answer", "began", "needs", "patient")

    def __init__(self, needs: Needs, began: float, *, patient: bool) -> None:
        self.patient = patient
        self.needs = needs
        self.began = began
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Limiter:
    """All limits of one process. `start` and `close` frame its life."""

    def __init__(self, store: LimitStore, process: str) -> None:
        """`process` names this process in the database: never the same name twice."""
        self._store = store
        self._process = process
        self.leases = Leases(process)
        self._rows: deque[LedgerRow] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._hurry = False
        self._task: asyncio.Task[None] | None = None
        # Of a batch whose answer was lost: it is repeated until one comes.
        self._unanswered: Batch | None = None
        self._offset = time.time_ns() // 1000 - time.monotonic_ns() // 1000
        self._burst = _BURST
        self._last = self._turn = self._reaped = time.monotonic()
        self._expired = 0.0
        self._answered = time.monotonic() - LEASE
        self._down_since: float | None = None
        self._steady_since = time.monotonic()
        self._processes = 1

    def start(self) -> None:
        """Begin to exchange; needs a running loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write what is left, give the leases back and leave, within a few seconds."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        deadline = time.monotonic() + _LEAVE_WITHIN
        while time.monotonic() < deadline:
            self.leases.give_all_back()
            try:
                await self._exchange()
                if not self._rows and self._unanswered is None and self.leases.idle:
                    await self._store.leave(self._process)
                    return
            except StoreUnavailable:
                await asyncio.sleep(INTERVAL)
            except Exception:  # the other parts of the router must still be closed
                log.exception("last exchange with the database failed")
                break
        log.error("ledger rows not written: the database could not be reached", rows=len(self._rows))

    @property
    def down(self) -> bool:
        """Whether the database could not be reached at the last try."""
        return self._down_since is not None

    def now(self) -> int:
        """The database's clock as far as it is known here, in microseconds."""
        return time.monotonic_ns() // 1000 + self._offset

    def record(self, row: LedgerRow) -> None:
        """Write `row` with the next exchange."""
        self._rows.append(row)

    async def reserve(self, needs: Needs, *, patient: bool = True) -> None:
        """Reserve all of `needs`, or nothing. `patient`: what others may give back soon is waited for.

        Raises `RequestExceedsLimit` for what no account could ever hold, `LimitExceeded`, `LimitStoreUnavailable`.
        """
        if len(self._rows) >= _MOST_PENDING_ROWS:
            raise _unavailable()
        if self.leases.take(needs):
            return
        for lease, amount in needs:
            if amount > lease.account.limit:
                raise _never(lease.account, amount)
        if self._down_since is not None:
            self._reserve_without_store(needs)
            return
        refusing = self.leases.refusing(needs, self.now(), patient=patient)
        if refusing is not None:
            raise self._exceeded(refusing, needs)
        await self._ask(needs, patient=patient)

    async def _ask(self, needs: Needs, *, patient: bool) -> None:
        waiting = _Waiting(needs, time.monotonic(), patient=patient)
        self._waiting.append(waiting)
        for lease, _ in needs:
            lease.queue += 1
        self._wake.set()
        try:
            await waiting.answer
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._dismiss(waiting)
            elif not waiting.answer.cancelled() and waiting.answer.exception() is None:
                self.settle(needs)  # granted in the moment in which the request was given up
            raise

    def settle(self, needs: Needs, tokens: int = 0, nanousd: int = 0) -> None:
        """End a reservation of `needs`, of which so much was used. The requests of a minute stay used: one was made."""
        if self.leases.settle(needs, tokens, nanousd):
            self._wake.set()

    def _reserve_without_store(self, needs: Needs) -> None:
        """While the database is away: leases in hand, and rate limits by this process alone where policy says so."""
        short = [(lease, amount) for lease, amount in needs if lease.free < amount or lease.queue]
        for lease, amount in short:
            account = lease.account
            if not account.local:
                raise _unavailable()
            if amount > account.limit // self._processes - lease.used(self.now()) - lease.reserved:
                raise self._exceeded(lease, needs)
        for lease, amount in needs:
            self.leases.bind(lease, amount)

    # --- the exchanges

    async def _run(self) -> None:
        while not self._closing:
            try:
                await self._next_turn()
                now = time.monotonic()
                interval = now - self._last >= INTERVAL
                if now - self._expired >= 1.0:
                    self._expired = now
                    self.leases.expire(self.now())
                if (
                    not self._waiting
                    and not self._rows
                    and self._unanswered is None
                    and self.leases.idle
                    and now - self._last < _IDLE
                ):
                    continue
                await self._exchange(interval=interval)
                if now - self._reaped >= LEASE / 2 and now - self._steady_since >= LEASE:
                    # Only after having been in touch for a whole lease: after an outage every lease has run out, and
                    # all get the same time to be renewed.
                    self._reaped = now
                    # It takes the place of an exchange, so that the database has no more to do than one an interval.
                    self._turn += INTERVAL
                    self._burst -= 1
                    dead = await self._store.reap()
                    if dead:
                        log.warning("processes died; what they held is presumed spent", processes=dead)
            except StoreUnavailable as reason:
                self._outage(str(reason))
            except Exception:  # whatever it is, the loop must go on: without it every lease dries up
                log.exception("exchange with the database failed")
                self._outage("see above")

    async def _next_turn(self) -> None:
        """Until the interval has passed, or somebody waits and a turn out of order is left."""
        pause = _RETRY if self.down else INTERVAL
        while not self._closing:
            now = time.monotonic()
            left = self._turn + pause - now
            if left <= 0:
                self._turn = now
                return
            if self._wake.is_set():
                self._wake.clear()
                self._serve_waiting()
                if (self._waiting or self._hurry) and self._burst >= 1 and not self.down:
                    self._hurry = False
                    self._burst -= 1
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()

    def _serve_waiting(self) -> None:
        """Let those who wait have what has come free here, each account's in their order."""
        missed: set[Lease] = set()
        for each in list(self._waiting):
            if each.answer.done():
                continue  # its client has just left, and has had no time yet to say so
            leases = [lease for lease, _ in each.needs]
            if missed.isdisjoint(leases) and self.leases.take_in_turn(each.needs):
                self._answer(each)
            else:
                missed.update(leases)

    async def _exchange(self, *, interval: bool = True) -> None:
        began = time.monotonic()
        self._burst = min(_BURST, self._burst + (began - self._last) / INTERVAL - 1) if interval else self._burst
        self._last = self._turn = began
        waiting: list[_Waiting] = []
        asks: list[Needs] = []
        if self._unanswered is not None:
            batch = self._unanswered
        else:
            self._serve_waiting()
            waiting = list(self._waiting)
            asks = [each.needs for each in waiting]
            rows = [self._rows[i] for i in range(min(len(self._rows), _MOST_ROWS))]
            batch = self.leases.batch(asks, rows, interval=interval, now=self.now())
            # Those who waited are told at once if this fails, so a repetition does not ask for them.
            self._unanswered = Batch(batch.process, batch.number, batch.shares, (), batch.rows)
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                outcome = await self._store.exchange(batch)
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {_ANSWER_WITHIN:g} s") from None
        self._unanswered = None
        for _ in batch.rows:
            self._rows.popleft()
        self._offset = outcome.now - time.monotonic_ns() // 1000
        self._processes = max(1, outcome.processes)
        self._answered = began
        self._recovered()
        self.leases.apply(batch, asks, outcome)
        if outcome.recalled and not self.leases.idle:
            self._hurry = True
            self._wake.set()
        if outcome.lost:
            log.warning("this process was taken for dead by another; what was presumed of it has been taken back")
        self._tell(waiting, outcome)
        self._serve_waiting()

    def _tell(self, waiting: Sequence[_Waiting], outcome: Outcome) -> None:
        """Answer those who waited: granted, or refused where waiting on would be of no use."""
        now = time.monotonic()
        for each, lacking in zip(waiting, outcome.lacking, strict=True):
            if each not in self._waiting or each.answer.done():
                if lacking is None:
                    self.settle(each.needs)  # given up while it was being granted
            elif lacking is None:
                self._answer(each)
            else:
                lease, amount = next(need for need in each.needs if need[0].account.key == lacking)
                patience = max(_PATIENCE[lease.metric], _RECALL_PATIENCE)
                late = not each.patient or now - each.began > patience
                if late or not lease.worth_waiting(amount, outcome.now):
                    lease.refused = amount if lease.refused is None else min(amount, lease.refused)
                    self._dismiss(each)
                    each.answer.set_exception(self._exceeded(lease, each.needs))

    def _answer(self, waiting: _Waiting) -> None:
        self._dismiss(waiting)
        waiting.answer.set_result(None)

    def _dismiss(self, waiting: _Waiting) -> None:
        self._waiting.remove(waiting)
        for lease, _ in waiting.needs:
            lease.queue -= 1

    def _recovered(self) -> None:
        if self._down_since is not None:
            log.warning("the database of limits is back", seconds=round(time.monotonic() - self._down_since, 1))
            self._down_since = None
            self._steady_since = time.monotonic()

    def _outage(self, reason: str) -> None:
        if self._down_since is None:
            self._down_since = time.monotonic()
            log.error(
                "the database of limits cannot be reached; what is leased goes on, then requests are refused",
                reason=reason,
            )
        if time.monotonic() - self._answered > LEASE * 0.8:
            # Others may take this process for dead by now. Money and tokens are then booked as spent, so they may be;
            # slots are given to others.
            for lease in self.leases:
                if lease.metric is Metric.PARALLEL and lease.free > 0:
                    lease.returning += lease.free
                    lease.free = lease.start = lease.low = 0
        for each in list(self._waiting):
            self._dismiss(each)
            if each.answer.done():
                continue
            try:
                self._reserve_without_store(each.needs)
            except RouterError as error:
                each.answer.set_exception(error)
            else:
                each.answer.set_result(None)

    def _exceeded(self, lease: Lease, needs: Needs) -> LimitExceeded:
        amount = next(amount for each, amount in needs if each is lease)
        return exceeded(lease, amount, self.now())


def exceeded(lease: Lease, amount: int, now: int) -> LimitExceeded:
    """The refusal of `amount` by `lease`, with what a client can know of it and when to come back."""
    account = lease.account
    used = max(0, account.limit - lease.room(now)) if account.metric is not Metric.USD else lease.used(now)
    wait: float | None = 1.0
    resets = now / SECOND + 1
    unit = _UNITS[account.metric]
    message = f"The limit of {_whose(account)} is met: "
    if account.window is Window.MINUTE:
        lacks = used + amount - account.limit
        wait = max(0.001, lacks * 60 / account.limit)
        resets = now / SECOND + used * 60 / account.limit
    elif account.metric is Metric.USD:
        wait, resets = None, window_end(account.window, now) / SECOND
    if account.metric is Metric.USD:
        message += (
            f"{dollars(used)} of {dollars(account.limit)} {unit} {_WINDOWS[account.window]} are used, and this request "
            f"needs up to {dollars(amount)}. Ask for less, raise the budget in the policy, or wait until resets_at."
        )
    else:
        message += (
            f"{used} of {account.limit} {unit} {_WINDOWS[account.window]} are used or reserved, and this request needs "
            f"{amount}. Try again after retry-after."
        )
    return LimitExceeded(message, account, used=used, requested=amount, resets_at=resets, retry_after=wait)


def _never(account: Account, amount: int) -> RequestExceedsLimit:
    needed, most = (
        (dollars(amount), dollars(account.limit)) if account.metric is Metric.USD else (amount, account.limit)
    )
    return RequestExceedsLimit(
        f"This request needs up to {needed} {_UNITS[account.metric]}, and {_whose(account)} may use {most} "
        f"{_WINDOWS[account.window]}: it could never fit. Send less, or ask for fewer output tokens (max_tokens).",
        account,
        amount,
    )


def _unavailable() -> LimitStoreUnavailable:
    return LimitStoreUnavailable("Limits cannot be checked just now, so the request is refused. Try again.")


def _whose(account: Account) -> str:
    return f"tenant {account.tenant!r}" + (f" at provider {account.provider!r}" if account.provider else "")


_UNITS = {
    Metric.REQUESTS: "requests",
    Metric.TOKENS: "tokens",
    Metric.PARALLEL: "requests",
    Metric.USD: "US dollars",
}
_WINDOWS = {
    Window.MINUTE: "in a minute",
    Window.DAY: "in a day",
    Window.MONTH: "in a month",
    Window.NOW: "at the same time",
}
