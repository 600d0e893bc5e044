"""The ledger's rows: what each request cost, kept for ever or as long as the operator says."""

from msgspec import Struct


class LedgerRow(Struct, frozen=True, gc=False):
    """One request that was admitted, or what a process that died may have spent.

    `cost_nanousd` is None where the price is not known. `status` is the one that the client got, 499 where it had gone.
    `attempts` is how many calls were made. `estimated`: the tokens were counted here, because the upstream did not say.
    `presumed`: nobody knows what was spent, so all that the process could have spent is booked; a row with a negative
    cost takes that back when the process turns out to live. Presumed rows have no request.

    The database gives each row its `time` when it is written, in the same transaction as the accounts.
    """

    request_id: str
    tenant: str
    task: str | None
    provider: str | None
    model: str | None
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_nanousd: int | None
    status: int
    attempts: int
    policy: str
    estimated: bool = False
    presumed: bool = False
