"""What is limited: accounts, and what one request needs of them. Sources: policy.md, rules 6 and 7; design.md."""

from dataclasses import dataclass, field
from enum import StrEnum


class Metric(StrEnum):
    """What an account counts; amounts are whole requests, tokens, slots or nano-dollars."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    PARALLEL = "parallel"
    USD = "usd"

    __hash__ = str.__hash__


class Window(StrEnum):
    """Over what an account counts.

    MINUTE is a continuous bucket: its capacity is the limit, and limit/60 flow back a second. DAY and MONTH are those
    of the calendar in UTC. NOW counts what is under way.
    """

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"
    NOW = "now"

    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class Account:
    """One cap of the policy. `key` names its row in the database, which does not change when the limit does.

    `tenant`, `provider` are whose cap it is; `provider` is None for the tenant's own. `local` says that the account is
    to be kept by each process for itself while the store cannot be reached; a budget never is.
    """

    tenant: str
    provider: str | None
    metric: Metric
    window: Window
    limit: int
    local: bool = False
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.scope} {self.metric} {self.window}")

    @property
    def scope(self) -> str:
        """As in error bodies and in the database: `tenant:acme` or `tenant:acme/provider:openai`."""
        return f"tenant:{self.tenant}" if self.provider is None else f"tenant:{self.tenant}/provider:{self.provider}"
