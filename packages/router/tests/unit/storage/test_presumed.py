from stratmaster_router.domain.limits import Account, Metric, Window
from stratmaster_router.storage.presumed import presumed_rows, reversing_rows


def account(tenant: str, provider: str | None, window: Window) -> Account:
    """A budget."""
    return Account(tenant, provider, Metric.USD, window, 1_000)


OWN_DAY, OWN_MONTH = account("acme", None, Window.DAY), account("acme", None, Window.MONTH)
FIRST_DAY, FIRST_MONTH = account("acme", "first", Window.DAY), account("acme", "first", Window.MONTH)
SECOND = account("acme", "second", Window.MONTH)


def booked(*presumed: tuple[Account, int]) -> list[tuple[str, str | None, int | None]]:
    """Tenant, provider and cost of the rows; their reversal must be the same, negative."""
    rows = [(row.tenant, row.provider, row.cost_nanousd) for row in presumed_rows("p", presumed)]
    taken_back = [(row.tenant, row.provider, row.cost_nanousd) for row in reversing_rows("p", presumed)]
    assert taken_back == [(tenant, provider, -cost) for tenant, provider, cost in rows if cost is not None]
    return rows


def test_the_day_and_the_month_hold_the_same_money() -> None:
    """The larger part is booked."""
    assert booked((OWN_DAY, 3), (OWN_MONTH, 5)) == [("acme", None, 5)]


def test_providers_alone_have_a_row_each() -> None:
    """For each the larger of its own."""
    assert booked((FIRST_DAY, 7), (FIRST_MONTH, 2), (SECOND, 4)) == [("acme", "first", 7), ("acme", "second", 4)]


def test_a_tenants_own_covers_its_providers_where_it_is_no_less() -> None:
    """11 cover 7 + 4; 10 do not."""
    assert booked((OWN_MONTH, 11), (FIRST_DAY, 7), (SECOND, 4)) == [("acme", None, 11)]
    assert booked((OWN_MONTH, 10), (FIRST_DAY, 7), (SECOND, 4)) == [("acme", "first", 7), ("acme", "second", 4)]


def test_nothing_has_no_row() -> None:
    """Neither a tenant that held nothing, nor a provider."""
    assert booked((OWN_DAY, 0), (account("globex", None, Window.DAY), 1)) == [("globex", None, 1)]
    assert booked((OWN_DAY, 0), (FIRST_DAY, 0), (SECOND, 4)) == [("acme", "second", 4)]
