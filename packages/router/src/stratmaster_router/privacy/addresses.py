"""Finds e-mail addresses, and IPv6 addresses."""

import re
from ipaddress import AddressValueError, IPv6Address
from string import ascii_letters, digits

from stratmaster_router.privacy.finding import Finding, Folded

_LONGEST_LOCAL = 64
_LONGEST_DOMAIN = 253
# What the part before the `@` has in practice, with the letters that Latin-1 adds; RFC 5322 allows more, which in logs
# and code stands beside an address. What is beyond Latin-1 is `?` here and ends it.
_LOCAL = f"{ascii_letters}{digits}._%+-'~".encode() + bytes(range(0xC0, 0x100))
_NEVER_FIRST = b".-+'%~"
_domain = re.compile(rb"[A-Za-z0-9\xc0-\xff-]{1,63}(?:\.[A-Za-z0-9\xc0-\xff-]{1,63}){1,8}")
_top_level = re.compile(rb"[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,59}").fullmatch
_scaled_image = re.compile(rb"[0-9]x\.").match  # logo@2x.png

# Global, unique local and link-local addresses; the first characters are rare enough to look at each.
_ipv6 = re.compile(
    rb"[23fF](?<![0-9A-Za-z_:.].)"
    rb"(?:(?<=[23])[0-9A-Fa-f]{3}|(?<=[fF])(?:[cCdD][0-9A-Fa-f]{2}|[eE][89ABab][0-9A-Fa-f]))"
    rb":[0-9A-Fa-f:.]{2,41}(?![0-9A-Za-z_])",
    re.DOTALL,
)


class Emails:
    """The next e-mail address."""

    def next(self, text: Folded, begin: int) -> Finding | None:
        """The first finding that starts at `begin` or later."""
        data = text.data
        at = data.find(b"@", begin)
        while at >= 0:
            before = data[max(0, at - _LONGEST_LOCAL) : at]
            local = len(before[len(before.rstrip(_LOCAL)) :].lstrip(_NEVER_FIRST))
            domain = _domain.match(data, at + 1, at + 1 + _LONGEST_DOMAIN) if local and at - local >= begin else None
            if domain is not None:
                name = domain[0].rstrip(b"-")
                if _top_level(name[name.rfind(b".") + 1 :]) and not _scaled_image(name):
                    return Finding("email", at - local, at + 1 + len(name))
            at = data.find(b"@", at + 1)
        return None


class IPv6Addresses:
    """The next IPv6 address."""

    def next(self, text: Folded, begin: int) -> Finding | None:
        """The first finding that starts at `begin` or later."""
        if text.data.find(b":", begin) < 0:
            return None
        for match in _ipv6.finditer(text.data, begin):
            written = match[0].decode().rstrip(".")
            if written.endswith(":") and not written.endswith("::"):
                written = written[:-1]
            try:
                IPv6Address(written)
            except AddressValueError:
                continue
            return Finding("ip", match.start(), match.start() + len(written))
        return None
