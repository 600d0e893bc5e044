"""What the policy says about signed assertions, compiled: issuers with what their key files hold, and accounts."""

from collections.abc import Iterator
from types import MappingProxyType

from stratmaster_router.domain.service_accounts import Issuer, ServiceAccount, ServiceAccounts
from stratmaster_router.policy.certificates import ReadFile
from stratmaster_router.policy.problems import did_you_mean
from stratmaster_router.policy.schema import IssuerSpec, PolicyDocument, ServiceAccountsSpec


def service_accounts(spec: ServiceAccountsSpec, read_file: ReadFile) -> ServiceAccounts:
    """The accounts and issuers of `spec`. A key file that cannot be read does not make the policy invalid."""
    return ServiceAccounts(
        MappingProxyType({issuer.issuer: _issuer(issuer, read_file) for issuer in spec.issuers}),
        MappingProxyType(
            {
                account.subject: ServiceAccount(
                    account.subject, frozenset(account.tenants), frozenset(account.roles), account.issuer
                )
                for account in spec.accounts
            }
        ),
    )


def account_warnings(document: PolicyDocument, compiled: ServiceAccounts) -> Iterator[str]:
    """What is valid but will not work as one may think, in file order."""
    spec = document.service_accounts
    for index, issuer in enumerate(compiled.issuers.values()):
        if issuer.file is not None and issuer.text is None:
            place = f"service_accounts.issuers[{index}].jwks"
            yield f"{place}: file {issuer.file} cannot be read; keys that it held before stay in use"
    if spec.issuers and not spec.accounts:
        yield "service_accounts.accounts: empty, so every assertion is refused"
    for index, account in enumerate(spec.accounts):
        if account.issuer is None and len(spec.issuers) > 1:
            yield (
                f"service_accounts.accounts[{index}]: each of the {len(spec.issuers)} issuers may sign for this "
                "subject; name the one that does as its issuer"
            )
        for tenant in account.tenants:
            if tenant not in document.tenants:
                near = did_you_mean(tenant, document.tenants)
                yield f"service_accounts.accounts[{index}].tenants: no tenant is named {tenant!r}{near}"


def _issuer(spec: IssuerSpec, read_file: ReadFile) -> Issuer:
    file = spec.jwks.file
    text = None
    if file is not None:
        try:
            text = read_file(file)
        except (OSError, UnicodeDecodeError):
            text = None
    return Issuer(spec.issuer, spec.audience, spec.jwks.url, file, text)
