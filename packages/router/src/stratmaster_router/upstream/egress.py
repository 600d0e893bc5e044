"""Where calls to a provider may lead: every address is judged at the moment when it is connected to.

A name says little: whoever answers for it in the DNS can make it lead into the operator's own network, or to the
address at which a cloud hands credentials to its machines.
"""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from aiohttp import AddrInfoType

from stratmaster_router.domain.routing import Provider

# Where clouds answer their machines (AWS, Azure, Google, Alibaba, Oracle), as far as it is not link-local.
_METADATA = frozenset(
    map(ip_address, ("fd00:ec2::254", "fd20:ce::254", "168.63.129.16", "100.100.100.200", "192.0.0.192"))
)
_NAT64 = IPv6Network("64:ff9b::/96")

_Address = IPv4Address | IPv6Address


class EgressDenied(OSError):
    """An address that the policy does not let the router connect to."""


class Egress:
    """The rule for the connections to one address of `provider`, `base_url`.

    A host that the policy names itself may have a private address, but a link-local one, or one of `_METADATA`, only
    where the policy writes that very address. `allows_host` says whether the host is one of `egress.allow_hosts`, where
    there are any; policy has seen to it before.
    """

    def __init__(self, provider: Provider, base_url: str) -> None:
        host = urlsplit(base_url).hostname or ""
        allowed = [name.strip("[]") for name in provider.allow_hosts]
        self.allows_host = not allowed or host in allowed
        self._public_only = provider.public_only
        written = () if provider.public_only else (host, *allowed)
        self._written = {address for address in map(_literal, written) if address is not None}

    def permits(self, address: str) -> bool:
        """Whether `address`, an IP address as the connector has it, may be connected to."""
        plain = _plain(ip_address(address))
        if plain in self._written:
            return True
        if plain.is_link_local or plain.is_multicast or plain.is_unspecified or plain in _METADATA:
            return False
        return not self._public_only or _is_public(plain)

    def open_socket(self, info: AddrInfoType) -> socket.socket:
        """The socket for a connection to the address in `info`. Raises `EgressDenied`.

        Whatever way an address has come, from the DNS, its cache or the policy, none is connected to without this.
        """
        family, kind, proto, _, address = info
        if not self.permits(str(address[0])):
            raise EgressDenied("The policy does not let the router connect to this address.")
        return socket.socket(family, kind, proto)


def _literal(host: str) -> _Address | None:
    try:
        return _plain(ip_address(host))
    except ValueError:
        return None


def _plain(address: _Address) -> _Address:
    """The IPv4 address in an IPv6 one that leads to it (mapped, 6to4, NAT64), else `address`."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return IPv4Address(address.packed[-4:])
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _is_public(address: _Address) -> bool:
    return address.is_global and not (isinstance(address, IPv6Address) and address.is_site_local)
