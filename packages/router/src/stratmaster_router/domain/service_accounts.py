"""Who may sign for whom: service accounts and the issuers of their assertions, as the policy names them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

KEY_ADMIN = "key_admin"
"""The role that may administer the keys of the account's tenants."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """One who signs assertions, for `audience`. Its public keys are at the address `url` or in `file`.

    `text` is what the file held; None where it cannot be read.
    """

    name: str
    audience: str
    url: str | None = None
    file: str | None = None
    text: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A service that may act for `tenants`, and what else it may do there (`roles`).

    In a policy `issuer` is the one that must have signed, None for any of them; in a judged assertion the one that did.
    """

    subject: str
    tenants: frozenset[str]
    roles: frozenset[str] = frozenset()
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceAccounts:
    """All that a policy says about assertions: issuers by name, accounts by subject."""

    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    accounts: Mapping[str, ServiceAccount] = field(default_factory=dict)
