"""Where accounts and the ledger live; `storage` implements it."""

from typing import Protocol

from stratmaster_router.limits.accounts import Batch, Outcome

LEASE = 5.0
"""Seconds after which a process that has not been heard of counts as dead."""


class StoreUnavailable(Exception):
    """The database cannot be reached, or did not answer in time; nothing is known of what was asked of it."""


class LimitStore(Protocol):
    """The truth of all accounts, shared by all processes."""

    async def exchange(self, batch: Batch) -> Outcome:
        """Apply a batch in one transaction, and renew its process's lease. Raises `StoreUnavailable`."""
        ...

    async def reap(self) -> int:
        """Book what processes held whose lease has run out; how many died. Raises `StoreUnavailable`."""
        ...

    async def leave(self, process: str) -> None:
        """Forget a process that holds nothing any more. Raises `StoreUnavailable`."""
        ...
