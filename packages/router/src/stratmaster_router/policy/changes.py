"""What a change of the policy changes, by name: for the record, not for the decision. Pure."""

from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from stratmaster_router.policy.schema import PolicyDocument

_NAMED = {"provider": "providers", "model": "models", "tenant": "tenants"}


def changes(former: PolicyDocument, present: PolicyDocument) -> tuple[str, ...]:
    """What differs: `tenant acme changed`, `provider local added`, `service accounts changed`. No values.

    Empty where the file says the same in other words.
    """
    found = [
        change
        for kind, field in _NAMED.items()
        for change in _differences(kind, getattr(former, field), getattr(present, field))
    ]
    if former.service_accounts != present.service_accounts:
        found.append("service accounts changed")
    return tuple(found)


def _differences(kind: str, former: Mapping[str, BaseModel], present: Mapping[str, BaseModel]) -> Iterator[str]:
    for name in {**former, **present}:
        if name not in present:
            yield f"{kind} {name} removed"
        elif name not in former:
            yield f"{kind} {name} added"
        elif repr(former[name]) != repr(present[name]):  # a mapping's order counts, as in the plan
            yield f"{kind} {name} changed"
