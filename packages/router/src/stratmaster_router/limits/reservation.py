"""What one request holds of the limits, from its first hop to its settlement.

A reservation belongs to the request: it goes with it from hop to hop, grows with a stream, and is settled once, to what
was used. What an attempt may have cost although its answer is lost is booked as used: a budget that forgot it could be
overspent, and a ledger that forgot it would be wrong.
"""

import asyncio
import re

from stratmaster_router.domain.errors import LimitExceeded, RequestExceedsLimit
from stratmaster_router.domain.limits import Metric
from stratmaster_router.domain.routing import Endpoint, Hop
from stratmaster_router.domain.usage import Usage
from stratmaster_router.limits.estimate import (
    LONG_BODY,
    answer_tokens,
    input_bound,
    input_estimate,
    output_bound,
    request_tokens,
)
from stratmaster_router.limits.leases import Lease
from stratmaster_router.limits.limiter import Limiter
from stratmaster_router.wire.envelope import Envelope, OutputBound

_USD, _TOKENS, _REQUESTS = Metric.USD, Metric.TOKENS, Metric.REQUESTS
_COUNTED = frozenset({_USD, _TOKENS})
# A stream that outgrows its reservation takes a quarter of it more, and not less than this many tokens.
_LEAST_GROWTH = 64
# OpenAI's reasoning models refuse `max_tokens`; other servers do not all know `max_completion_tokens`.
_reasoning = re.compile(r"(?:.*/)?(?:o\d|gpt-[5-9])").match


class Reservation:
    """One request's hold on its accounts. `cost` is in nano-dollars, None where a price is not known.

    `used` is what has been booked so far; `estimated` says that some of it was counted here, not by an upstream.
    `leases` are those on the accounts of the last hop that was asked for.
    """

    __slots__ = (
        "_accounted",
        "_bound",
        "_endpoint",
        "_envelope",
        "_exact",
        "_hop",
        "_input",
        "_limiter",
        "_needs",
        "_output",
        "cost",
        "estimated",
        "leases",
        "settled",
        "used",
    )

    def __init__(self, limiter: Limiter, endpoint: Endpoint, envelope: Envelope) -> None:
        self._limiter = limiter
        self._endpoint = endpoint
        self._envelope = envelope
        self._hop: Hop | None = None
        self._needs: list[tuple[Lease, int]] = []
        # Input tokens: likely, and at most. With `_exact` both are counted.
        self._input = self._bound = -1
        self._exact = False
        self._output = 0
        # Accounts that have counted this request: a request counts once, whatever it takes to answer it.
        self._accounted: set[str] = set()
        self.leases: tuple[Lease, ...] = ()
        self.used = Usage(0, 0)
        self.cost: int | None = 0
        self.estimated = False
        self.settled = False
        limiter.open += 1

    def now(self) -> int:
        """The database's clock, in microseconds."""
        return self._limiter.now()

    @property
    def output(self) -> int:
        """Output tokens that are reserved."""
        return self._output

    async def admit(self, hop: Hop) -> OutputBound | None:
        """Take the reservation to `hop`; the bound on output tokens that the upstream is to be sent, if any.

        Raises what `Limiter.reserve` raises; nothing is reserved then.
        """
        self._release()
        self._hop = hop
        self.leases = tuple([self._limiter.leases.lease(account) for account in hop.accounts])
        if self.leases:
            await self._measure(hop)
            bound = self._fit(hop)
            needs = self._sized(hop)
            try:
                await self._limiter.reserve(needs)
            except (LimitExceeded, RequestExceedsLimit) as refused:
                if refused.account.metric not in _COUNTED or not await self._count(hop):
                    raise
                # The quick bounds did not fit. Counted exactly, the request may.
                bound = self._fit(hop)
                needs = self._sized(hop)
                await self._limiter.reserve(needs)
            self._needs = needs
            for lease, _ in needs:
                if lease.account.metric is _REQUESTS:
                    self._accounted.add(lease.account.key)
            return bound
        return None

    async def _measure(self, hop: Hop) -> None:
        if self._input < 0:
            body = self._envelope.body
            if len(body) >= LONG_BODY:
                self._input = await asyncio.to_thread(input_estimate, body)
            else:
                self._input = input_estimate(body)
        if hop.budgeted and not self._exact:
            self._bound = input_bound(self._envelope.body, hop.model)

    async def _count(self, hop: Hop) -> bool:
        """Count the input exactly, where the model's tokens are known; whether that makes a difference."""
        if self._exact:
            return False
        self._exact = True
        envelope = self._envelope
        if len(envelope.body) >= LONG_BODY // 16:
            counted = await asyncio.to_thread(request_tokens, envelope.body, hop.model)
        else:
            counted = request_tokens(envelope.body, hop.model)
        if counted is None:
            return False
        self._input = self._bound = counted
        return True

    def _fit(self, hop: Hop) -> OutputBound | None:
        """Set the output that is reserved. Where the client named no bound, the policy's is cut to what could fit."""
        default = hop.default_max_tokens
        self._output, chosen = output_bound(self._endpoint, self._envelope.fields, default)
        if chosen:
            return None
        for account in hop.accounts:
            spare = self._output
            if account.metric is _TOKENS:
                spare = account.limit - self._input
            elif account.metric is _USD and hop.price is not None:
                base = hop.price.bound(self._bound, 0)
                whole = hop.price.bound(self._bound, self._output) - base
                if whole > account.limit - base:
                    spare = self._output * max(0, account.limit - base) // whole
            if 0 < spare < self._output:
                default = max(1, default * spare // self._output)
                self._output = output_bound(self._endpoint, self._envelope.fields, default)[0]
        if not hop.budgeted:
            return None
        chat = self._endpoint is Endpoint.CHAT and _reasoning(hop.model)
        name = "max_completion_tokens" if chat else "max_tokens"
        fields = self._envelope.fields
        if fields.get("max_tokens") is not None or fields.get("max_completion_tokens") is not None:
            return None  # of a kind that the upstream will refuse
        return name, default

    def _sized(self, hop: Hop) -> list[tuple[Lease, int]]:
        needs = []
        for lease in self.leases:
            metric = lease.account.metric
            if metric is _TOKENS:
                needs.append((lease, self._input + self._output))
            elif metric is _USD:
                assert hop.price is not None, "the policy is invalid without"
                needs.append((lease, hop.price.bound(self._bound, self._output)))
            elif metric is not _REQUESTS or lease.account.key not in self._accounted:
                needs.append((lease, 1))
        return needs

    async def grow(self, tokens: int) -> None:
        """Reserve for at least `tokens` of output. Raises what `Limiter.reserve` raises; the old reservation stays."""
        hop = self._hop
        assert hop is not None
        target = max(tokens + _LEAST_GROWTH, self._output + self._output // 4)
        before = {lease: amount for lease, amount in self._needs if lease.account.metric in _COUNTED}
        if not before:
            self._output = target
            return
        more = []
        for lease, amount in before.items():
            if lease.account.metric is _TOKENS:
                more.append((lease, self._input + target - amount))
            else:
                assert hop.price is not None
                more.append((lease, max(0, hop.price.bound(self._bound, target) - amount)))
        await self._limiter.reserve(more)
        added = dict(more)
        self._needs = [(lease, amount + added.get(lease, 0)) for lease, amount in self._needs]
        self._output = target

    def spend(self, *, output: bool) -> None:
        """Book what an attempt may have cost whose answer is lost: its input, with `output` all that is reserved."""
        if self._hop is None:
            return
        if self._input < 0:
            self._input = input_estimate(self._envelope.body)
        bound = max(self._bound, self._input)
        out = 0
        if output:
            out = self._output or output_bound(self._endpoint, self._envelope.fields, self._hop.default_max_tokens)[0]
        self._book(Usage(bound, out), estimated=True)

    def _release(self) -> None:
        needs, self._needs = self._needs, []
        self._limiter.release(needs)

    def _book(self, usage: Usage, *, estimated: bool) -> None:
        hop = self._hop
        assert hop is not None
        cost = None if hop.price is None else hop.price.cost(usage)
        tokens = usage.input + usage.output
        needs, self._needs = self._needs, []
        settle = self._limiter.settle
        for lease, amount in needs:
            metric = lease.account.metric
            if metric is _TOKENS:
                settle(lease, amount, tokens)
            elif metric is _USD:
                settle(lease, amount, cost or 0)
            elif metric is not _REQUESTS:
                settle(lease, amount, 0)
        was = self.used
        if was.input or was.output:
            usage = Usage(was.input + usage.input, was.output + usage.output, was.cached_input + usage.cached_input)
        self.used = usage
        self.cost = None if cost is None or self.cost is None else self.cost + cost
        self.estimated = self.estimated or estimated

    def settle(self, usage: Usage | None, *, estimated: bool = False) -> None:
        """End the reservation at what the last hop used; None where that was nothing. Later calls do nothing."""
        if self.settled:
            return
        self.settled = True
        self._limiter.open -= 1
        if usage is None:
            self._release()
        else:
            self._book(usage, estimated=estimated)

    def counted(self, text: str, least: int) -> Usage:
        """What the last hop used, counted here because the upstream did not say: `least` output tokens or more."""
        hop, envelope = self._hop, self._envelope
        assert hop is not None
        counted = None
        if len(envelope.body) < LONG_BODY:
            counted = request_tokens(envelope.body, hop.model)
        if counted is None:
            counted = max(self._input, input_estimate(envelope.body))
        return Usage(counted, max(least, answer_tokens(text, hop.model)))
