"""What a dead process may have spent, as rows of the ledger, and the same taken back where it lives after all. Pure."""

from collections.abc import Iterable

from stratmaster_router.domain.ledger import LedgerRow
from stratmaster_router.domain.limits import Account


def presumed_rows(process: str, presumed: Iterable[tuple[Account, int]]) -> list[LedgerRow]:
    """Rows for what was `presumed` of each account, in nano-dollars.

    The same money is in a tenant's own budgets, of the day and of the month, and in those of its providers. So it is
    booked once: for the tenant, the most that one of its own says, or, where those of its providers say more in sum,
    for each provider the most that one of its says.
    """
    own: dict[str, int] = {}
    at: dict[str, dict[str, int]] = {}
    for account, amount in presumed:
        if account.provider is None:
            own[account.tenant] = max(own.get(account.tenant, 0), amount)
        else:
            by_provider = at.setdefault(account.tenant, {})
            by_provider[account.provider] = max(by_provider.get(account.provider, 0), amount)
    rows = []
    for tenant in sorted(own.keys() | at.keys()):
        whole, by_provider = own.get(tenant, 0), at.get(tenant, {})
        if whole >= sum(by_provider.values()):
            rows.append(_row(process, tenant, None, whole))
        else:
            rows += [_row(process, tenant, provider, by_provider[provider]) for provider in sorted(by_provider)]
    return [row for row in rows if row.cost_nanousd]


def reversing_rows(process: str, presumed: Iterable[tuple[Account, int]]) -> list[LedgerRow]:
    """Rows that make up for those of `presumed_rows`, each for its own."""
    return [
        _row(process, row.tenant, row.provider, -(row.cost_nanousd or 0)) for row in presumed_rows(process, presumed)
    ]


def _row(process: str, tenant: str, provider: str | None, cost: int) -> LedgerRow:
    return LedgerRow(f"presumed:{process}", tenant, None, provider, None, 0, 0, 0, cost, 0, 0, "", presumed=True)
