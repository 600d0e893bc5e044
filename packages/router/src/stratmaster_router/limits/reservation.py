"""What one request holds of the limits, from its first hop to its settlement.

A reservation belongs to the request: it goes with it from hop to hop, grows with a stream, and is settled once, to what
was used. What an attempt may have cost although its answer is lost is booked as used: a budget that forgot it could be
overspent, and a ledger that forgot it would be wrong.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

from stratmaster_router.domain.errors import InvalidRequest, LimitExceeded, RequestExceedsLimit
from stratmaster_router.domain.limits import Metric
from stratmaster_router.domain.routing import Endpoint, Hop
from stratmaster_router.domain.usage import Usage
from stratmaster_router.limits.estimate import (
    LONG_BODY,
    answer_tokens,
    countable,
    input_bound,
    input_estimate,
    output_bound,
    request_tokens,
)
from stratmaster_router.limits.leases import Lease
from stratmaster_router.limits.limiter import Limiter
from stratmaster_router.wire.envelope import Envelope, OutputBound

_USD, _TOKENS, _REQUESTS, _PARALLEL = Metric.USD, Metric.TOKENS, Metric.REQUESTS, Metric.PARALLEL
_CHAT = Endpoint.CHAT
_COUNTED = frozenset({_USD, _TOKENS})
# Of what is left of an account after the input, the part that an answer without a bound may take.
_PART = 4
# What a database can hold; a price and a size that are both absurd could come to more.
_MOST_NANOUSD = 2**62
_BOUNDS = ("max_tokens",)
_CHAT_BOUNDS = ("max_tokens", "max_completion_tokens")
# A stream that outgrows its reservation takes a quarter of it more, and not less than this many tokens.
_LEAST_GROWTH = 64
_LAST_GROWTH = 4  # when there is no room for that
_reasoning = re.compile(r"(?:.*/)?(?:o\d|gpt-[5-9])").match


@lru_cache
def _bound_of_chat(model: str) -> str:
    """OpenAI's reasoning models refuse `max_tokens`; other servers do not all know `max_completion_tokens`."""
    return "max_completion_tokens" if _reasoning(model) else "max_tokens"


def _check_bounds(fields: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Under a budget a bound that a lenient upstream might read in its own way is no bound. Raises `InvalidRequest`."""
    for name in names:
        if name in fields and (value := fields[name]) is not None and (type(value) is not int or value < 1):
            raise InvalidRequest(
                f"'{name}' must be a whole number above 0: a budget applies to this tenant.", param=name
            )


class Reservation:
    """One request's hold on its accounts. `cost` is in nano-dollars, None where a price is not known.

    `used` is what has been booked so far; `estimated` says that some of it was counted here, not by an upstream.
    `leases` are those on the accounts of the last hop that was asked for.
    """

    __slots__ = (
        "_accounted",
        "_bound",
        "_bounded",
        "_endpoint",
        "_envelope",
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
        # Input tokens: likely, and at most.
        self._input = self._bound = 0
        self._output = 0
        # Whether the upstream knows how long the answer may be at most.
        self._bounded = False
        # Those that have counted this request: a request counts once, whatever it takes to answer it.
        self._accounted: tuple[Lease, ...] = ()
        self.leases: tuple[Lease, ...] = ()
        self.used = Usage(0, 0)
        self.cost: int | None = 0
        self.estimated = False
        self.settled = False

    def now(self) -> int:
        """The database's clock, in microseconds."""
        return self._limiter.now()

    @property
    def output(self) -> int:
        """Output tokens that are reserved."""
        return self._output

    async def admit(self, hop: Hop, envelope: Envelope) -> OutputBound | None:
        """Take the reservation to `hop`; the bound on output tokens that the upstream is to be sent, if any.

        `envelope` is the request as that hop may see it, which can be longer or shorter than another's. Raises what
        `Limiter.reserve` raises; nothing is reserved then.
        """
        if self._needs:
            self._release()
        self._hop, self._envelope = hop, envelope
        if not hop.accounts:
            self.leases = ()
            # What a former hop was bounded by does not bound this one.
            self._input = self._bound = self._output = 0
            self._bounded = False
            return None
        self.leases = self._limiter.leases.of(hop.accounts)
        # Far from every cap the crudest bound is reserved: it costs nothing, and what is not used comes back.
        self._input = self._bound = input_bound(self._envelope.body, hop.model, self._envelope.fields)
        bound, needs, cut = self._fit(hop)
        if cut or not self._limiter.leases.take(needs):
            bound, needs = await self._reserve_closely(hop)
        self._needs = needs
        for lease, _ in needs:
            if lease.metric is _REQUESTS:
                self._accounted += (lease,)
        return bound

    async def _reserve_closely(self, hop: Hop) -> tuple[OutputBound | None, list[tuple[Lease, int]]]:
        """Reserve for the input as it is likely to be, and if that is refused as it is, where it can be counted."""
        body, model = self._envelope.body, hop.model
        long = len(body) >= LONG_BODY
        self._input = await asyncio.to_thread(input_estimate, body) if long else input_estimate(body)
        bound, needs, cut = self._fit(hop)
        refused: LimitExceeded | RequestExceedsLimit | None = None
        if not (cut and countable(model)):
            try:
                await self._limiter.reserve(needs)
            except (LimitExceeded, RequestExceedsLimit) as error:
                if error.account.metric not in _COUNTED or not countable(model):
                    raise
                refused = error
            else:
                return bound, needs
        # Counting takes a millisecond for 32 KB.
        count = partial(request_tokens, body, model, self._envelope.fields)
        counted = await asyncio.to_thread(count) if long else count()
        assert counted is not None
        if refused is not None and counted >= (self._bound if refused.account.metric is _USD else self._input):
            raise refused
        self._input = self._bound = counted
        bound, needs, _ = self._fit(hop)
        await self._limiter.reserve(needs)
        return bound, needs

    def _fit(self, hop: Hop) -> tuple[OutputBound | None, list[tuple[Lease, int]], bool]:
        """Set the output that is reserved; the bound to send upstream, all needs, and whether the policy's was cut.

        Where the client named no bound, the policy's default is cut to a quarter of each account at the most: under a
        small cap it would else be refused, or keep everybody else out.
        """
        fields = self._envelope.fields
        default = hop.default_max_tokens
        chat = self._endpoint is _CHAT
        if hop.budgeted:
            _check_bounds(fields, _CHAT_BOUNDS if chat else _BOUNDS)
        self._output, chosen = output_bound(self._endpoint, fields, default)
        self._bounded = chosen or hop.budgeted
        needs = self._sized(hop)
        if chosen:
            return None, needs, False
        for lease, amount in needs:
            # Far from here for nearly every request, so it is asked before the exact quarters are worked out.
            if amount * _PART > lease.account.limit:
                default = self._cut(hop)
                needs = self._sized(hop)
                break
        cut = default < hop.default_max_tokens
        if not hop.budgeted:
            return None, needs, cut
        return (_bound_of_chat(hop.model) if chat else "max_tokens", default), needs, cut

    def _cut(self, hop: Hop) -> int:
        """Cut the output that is reserved to its part of each account; what is left of the policy's default."""
        fields = self._envelope.fields
        default = hop.default_max_tokens
        for account in hop.accounts:
            spare = self._output
            if account.metric is _TOKENS:
                spare = (account.limit - self._input) // _PART
            elif account.metric is _USD and hop.price is not None:
                base = hop.price.bound(self._bound, 0)
                whole = hop.price.bound(self._bound, self._output) - base
                if whole * _PART > account.limit - base:
                    spare = self._output * (account.limit - base) // (whole * _PART)
            if spare < self._output:
                default = max(1, default * spare // self._output)
                self._output = output_bound(self._endpoint, fields, default)[0]
        return default

    def _sized(self, hop: Hop) -> list[tuple[Lease, int]]:
        needs = []
        accounted = self._accounted
        for lease in self.leases:
            metric = lease.metric
            if metric is _TOKENS:
                needs.append((lease, self._input + self._output))
            elif metric is _USD:
                assert hop.price is not None, "the policy is invalid without"
                needs.append((lease, hop.price.bound(self._bound, self._output)))
            elif not accounted or lease not in accounted:
                needs.append((lease, 1))
        return needs

    def fork(self) -> "Reservation":
        """One for another hop that is asked at the same time; it counts no second request and takes no second place."""
        fork = Reservation(self._limiter, self._endpoint, self._envelope)
        places = [lease for lease, _ in self._needs if lease.metric is _PARALLEL]
        fork._accounted = (*self._accounted, *places)
        return fork

    def absorb(self, fork: "Reservation") -> None:
        """End `fork`, whose hop did not answer first; what it has booked is this request's."""
        fork.settle(None)
        self._accounted += tuple([lease for lease in fork._accounted if lease.metric is _REQUESTS])
        self._add(fork.used, fork.cost, estimated=fork.estimated)

    def become(self, fork: "Reservation", book: Callable[[], None]) -> None:
        """Go on with what `fork` holds, whose hop answered first; `book` books what this one's may have cost."""
        kept = [need for need in self._needs if need[0].metric is _PARALLEL and need[0] in fork.leases]
        self._needs = [need for need in self._needs if need not in kept]
        book()
        self._release()
        self._needs = kept + fork._needs
        self._hop, self._envelope, self.leases = fork._hop, fork._envelope, fork.leases
        self._input, self._bound, self._output, self._bounded = fork._input, fork._bound, fork._output, fork._bounded
        self._accounted = fork._accounted
        fork.settled = True

    async def grow(self, tokens: int) -> None:
        """Reserve for at least `tokens` of output. Raises what `Limiter.reserve` raises; the old reservation stays."""
        try:
            await self._grow_to(max(tokens + _LEAST_GROWTH, self._output + self._output // 4))
        except LimitExceeded:
            await self._grow_to(tokens + _LAST_GROWTH)

    async def _grow_to(self, target: int) -> None:
        hop = self._hop
        assert hop is not None
        before = {lease: amount for lease, amount in self._needs if lease.metric in _COUNTED}
        if not before:
            self._output = target
            return
        more = []
        for lease, amount in before.items():
            if lease.metric is _TOKENS:
                more.append((lease, self._input + target - amount))
            else:
                assert hop.price is not None
                more.append((lease, max(0, hop.price.bound(self._bound, target) - amount)))
        # The upstream goes on meanwhile, so there is no time to wait for what other requests may give back.
        await self._limiter.reserve(more, patient=False)
        added = dict(more)
        self._needs = [(lease, amount + added.get(lease, 0)) for lease, amount in self._needs]
        self._output = target

    def spend(self, *, output: bool) -> None:
        """Book what an attempt may have cost whose answer is lost: its input, with `output` all that is reserved."""
        if self._hop is None:
            return
        bound = max(self._bound, self._input) or input_estimate(self._envelope.body)
        out = 0
        if output:
            out = self._output or output_bound(self._endpoint, self._envelope.fields, self._hop.default_max_tokens)[0]
        self._book(Usage(bound, out), estimated=True)

    def _release(self) -> None:
        needs, self._needs = self._needs, []
        self._limiter.settle(needs)

    def _book(self, usage: Usage, *, estimated: bool) -> None:
        hop = self._hop
        assert hop is not None
        cost = None if hop.price is None else hop.price.cost(usage)
        if cost is not None and cost > _MOST_NANOUSD:
            cost = _MOST_NANOUSD
        needs, self._needs = self._needs, []
        if needs:
            self._limiter.settle(needs, usage.input + usage.output, cost or 0)
        self._add(usage, cost, estimated=estimated)

    def _add(self, usage: Usage, cost: int | None, *, estimated: bool) -> None:
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
        if usage is None:
            self._release()
        else:
            self._book(usage, estimated=estimated)

    def counted(self, text: str, least: int, *, watched: bool) -> Usage:
        """What the last hop used, counted here because the upstream did not say: `least` output tokens or more.

        `watched`: a stream, whose reservation grew with it.
        """
        hop, envelope = self._hop, self._envelope
        assert hop is not None
        counted = None
        if len(envelope.body) < LONG_BODY:
            counted = request_tokens(envelope.body, hop.model, envelope.fields)
        if counted is None:
            counted = input_estimate(envelope.body)
        output = answer_tokens(text, hop.model)
        if self._bounded or (watched and self.leases):
            # The upstream knew the bound, or would have been cut: it cannot have made more than is reserved.
            output = min(output, self._output)
        return Usage(counted, max(least, output))
