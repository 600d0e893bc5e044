"""Finds secrets: keys by their makers' prefixes, JWTs, private keys, URLs with a password, and `password=` and its kin.

One RE2 automaton finds the places where any of these may begin, however many prefixes there are; what it finds is then
judged by a small pattern of its own. A secret is as long as it goes on: half of one must not be left.
"""

import re

import re2

from stratmaster_router.privacy.finding import Finding, Folded

_REACH = 64  # bytes before `begin` in which what announces a secret may stand

_T = rb"[A-Za-z0-9_-]"
# By prefix: what must follow for it to be a key, and not a word that begins alike.
_PREFIXES: dict[bytes, re.Pattern[bytes]] = {
    prefix.encode(): re.compile(pattern)
    for prefixes, pattern in (
        # Ours; OpenAI, Anthropic and who copied them: a word with digits and capitals, which class names lack.
        ("smr_", rb"[A-Za-z0-9_-]{16}"),
        ("sk-", rb"(?=[A-Za-z0-9_-]{0,40}[0-9])(?=[A-Za-z0-9_-]{0,40}[A-Z])[A-Za-z0-9_-]{16}"),
        ("sk_live_ sk_test_ rk_live_ rk_test_ pk_live_ pk_test_", rb"[A-Za-z0-9]{16}"),  # Stripe
        ("whsec_", rb"[A-Za-z0-9+/]{24}"),
        ("ghp_ gho_ ghu_ ghs_ ghr_", rb"[A-Za-z0-9]{36}"),
        ("github_pat_", rb"[A-Za-z0-9_]{22}"),
        ("glpat- gldt- glrt-", rb"[A-Za-z0-9_-]{20}"),
        ("xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs- xapp-", rb"[A-Za-z0-9-]{10}"),  # Slack
        ("AKIA ASIA AROA AIDA ABIA", rb"[A-Z2-7]{16}(?![A-Za-z0-9])"),  # AWS
        ("AIza", rb"[A-Za-z0-9_-]{35}"),  # Google
        ("ya29.", rb"[A-Za-z0-9_-]{20}"),
        ("GOCSPX-", rb"[A-Za-z0-9_-]{20}"),
        ("npm_", rb"[A-Za-z0-9]{36}"),
        ("pypi-AgE", rb"[A-Za-z0-9_-]{40}"),
        ("hf_", rb"[A-Za-z]{30}|[A-Za-z0-9]{34}"),
        ("gsk_ pplx- xai- r8_ nvapi-", rb"[A-Za-z0-9_-]{32}"),
        ("SG.", rb"[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16}"),  # SendGrid
        ("SK AC", rb"[0-9a-f]{32}(?![A-Za-z0-9])"),  # Twilio
        ("shpat_ shpca_ shppa_ shpss_", rb"[0-9a-fA-F]{32}"),
        ("dop_v1_ doo_v1_ dor_v1_", rb"[0-9a-f]{64}"),
        ("hvs. hvb. hvr.", rb"[A-Za-z0-9_-]{24}"),  # HashiCorp Vault
        ("dapi", rb"[0-9a-f]{32}(?![0-9A-Za-z])"),  # Databricks
        ("lin_api_ ntn_", rb"[A-Za-z0-9]{32}"),
        ("AGE-SECRET-KEY-1", rb"[A-Z0-9]{50}"),
        # A JWT's or JWE's header: {"alg", {"typ", {"kid", {"cty", {"enc", {"x5t", {"x5c", {"jku", {"jwk", {"zip", {"cri
        (
            "eyJhbGci eyJ0eXAi eyJraWQi eyJjdHki eyJlbmMi eyJ4NXQi eyJ4NWMi eyJqa3Ui eyJqd2si eyJ6aXAi eyJjcml0",
            rb"[A-Za-z0-9_-]{8}",
        ),
    )
    for prefix in prefixes.split()
}
_tail = re.compile(rb"(?:[A-Za-z0-9_+/=~-]|\.(?=[A-Za-z0-9_-]))*+")

_KEYWORDS = (
    b"password|passwd|passphrase|pwd|secret|token|credential"
    b"|(?:api|access|account|private|shared|encryption|signing)[_-]?key"
)
_assigned = re.compile(rb"""["']?\s{0,4}(?:=>|:=|[:=])\s{0,4}["']?""")
# A value is secret if it has letters and digits; what begins like a variable, a path or a tag, and what is called, is
# code.
_V = rb"""[^\s"'`,;<>{}()\[\]&|\\]"""
_value = re.compile(rb"(?![$%*/.])(?=V{0,60}[0-9])(?=V{0,60}[A-Za-z])(?!V{0,120}[(\[])V{8}".replace(b"V", _V))
_value_tail = re.compile(_V + rb"*+")

_scheme = re.compile(rb"Bearer[ ]{1,4}(?=[A-Za-z0-9_.~+/-]{0,60}[0-9])[A-Za-z0-9_.~+/-]{16}", re.IGNORECASE)
_basic = re.compile(
    rb"[ ]{1,4}(?=[A-Za-z0-9+/]{0,40}[A-Z])(?=[A-Za-z0-9+/]{0,40}[a-z])(?=[A-Za-z0-9+/]{0,60}[0-9=])[A-Za-z0-9+/]{8}"
)

_BEFORE_URL = 20
_url_scheme = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*\Z")
_userinfo = re.compile(rb"""[^\s/@:"'<>]{0,64}:[^\s/@"'<>]{1,200}@""")
_url_tail = re.compile(rb"""[^\s"'<>`\\]*+""")

_private_key = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
# Also with its line ends written as \n, and without its end: then as far as it could be one.
_key_tail = re.compile(
    rb"(?:[A-Za-z0-9+/=\s\\:,.]++|-(?!----END ))*+(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?"
)


def _trigger() -> "re2._Regexp":
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    prefixes = b"|".join(re2.escape(prefix) for prefix in _PREFIXES)
    return re2.compile(rb"(?:%b|-----BEGIN |://|(?i:bearer |basic |%b))" % (prefixes, _KEYWORDS), options)


class Secrets:
    """The next secret."""

    def __init__(self) -> None:
        self._trigger = _trigger()

    def next(self, text: Folded, begin: int) -> Finding | None:
        """The first finding that starts at `begin` or later."""
        data = text.data
        trigger = self._trigger.search(data, max(0, begin - _REACH))
        while trigger is not None:
            at, end = trigger.span()
            span = _judge(data, at, end)
            if span is not None and span[0] >= begin:
                return Finding("secret", *span)
            trigger = self._trigger.search(data, at + 1)
        return None


def _judge(data: bytes, at: int, end: int) -> tuple[int, int] | None:
    """From where to where the secret goes that `data[at:end]` announces, if it does."""
    word = data[at:end]
    if word == b"://":
        return _url(data, at, end)
    if word == b"-----BEGIN ":
        key = _private_key.match(data, at)
        return None if key is None else _with_tail(data, at, key.end(), _key_tail)
    pattern = _PREFIXES.get(word)
    if pattern is not None:
        if _is_word(data[at - 1 : at]):
            return None
        core = pattern.match(data, end)
        return None if core is None else _with_tail(data, at, core.end(), _tail)
    if word[-1:] == b" ":
        return _authorization(data, at, end)
    assigned = _assigned.match(data, end)
    if assigned is None:
        return None
    value = _value.match(data, assigned.end())
    return None if value is None else _with_tail(data, value.start(), value.end(), _value_tail)


def _authorization(data: bytes, at: int, end: int) -> tuple[int, int] | None:
    core = _basic.match(data, end - 1) if data[at : at + 2].lower() == b"ba" else _scheme.match(data, at)
    if core is None or _is_word(data[at - 1 : at]):
        return None
    start = core.end() - len(core[0].split()[-1])
    return _with_tail(data, start, core.end(), _tail)


def _url(data: bytes, at: int, end: int) -> tuple[int, int] | None:
    scheme = _url_scheme.search(data, max(0, at - _BEFORE_URL), at)
    userinfo = _userinfo.match(data, end)
    if scheme is None or userinfo is None:
        return None
    return _with_tail(data, scheme.start(), userinfo.end(), _url_tail)


def _with_tail(data: bytes, start: int, end: int, tail: re.Pattern[bytes]) -> tuple[int, int]:
    rest = tail.match(data, end)
    return start, end if rest is None else rest.end()


def _is_word(byte: bytes) -> bool:
    return byte.isalnum() or byte == b"_"
