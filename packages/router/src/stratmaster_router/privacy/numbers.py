"""Finds what is written in digits: telephone and card numbers, IBANs, national ids, IPv4 addresses.

In three steps, each seeing only what the one before let through: a trigger (a digit, `+` or `(` where a number may
begin), a shape (how many digits in which groups), and the check of the shape's kind. A shape that many harmless numbers
share counts only after a word that says what it is, such as `Tel.` or `BSN`.
"""

import re

from stratmaster_router.privacy import checks
from stratmaster_router.privacy.finding import Finding, Folded

# A number does not begin inside a word or a number, and not behind the dot or dash of one. What follows is only looked
# at, so that each digit can be a beginning, whatever was tried before it. Dates are what logs are full of.
_trigger = re.compile(
    rb"""
    [0-9+(] (?:
        (?<=[+(]) (?<![0-9A-Za-z_].) (?P<sign>(?=[0-9 ()./+-]{6}))
      | (?<![+(]) (?<![0-9].) (?:
            (?<=[A-Za-z].) (?<![0-9_].{2}) (?=
                (?<=[A-Z].) (?:
                    (?P<gb2>  (?<=[A-Z]{2}.)(?<![0-9A-Za-z_][A-Z]{2}.) [0-9]{5}[A-D](?![0-9A-Za-z_]) )
                  | (?P<it6>  (?<=[A-Z]{6}.)(?<![0-9A-Za-z_][A-Z]{6}.)
                              [0-9L-V][A-EHLMPRST][0-9L-V]{2}[A-Z][0-9L-V]{3}[A-Z](?![0-9A-Za-z_]) )
                  | (?P<es1>  (?<=[XYZ].)(?<![0-9A-Za-z_][XYZ].) [0-9]{6}-?[A-Z](?![0-9A-Za-z_]) )
                  | (?P<in5>  (?<=[A-Z]{5}.)(?<![0-9A-Za-z_][A-Z]{5}.) [0-9]{3}[A-Z](?![0-9A-Za-z_]) )
                  | (?P<mx4>  (?<=[A-Z]{4}.)(?<![0-9A-Za-z_][A-Z]{4}.)
                              [0-9]{5}[HMX][A-Z]{5}[0-9A-Z][0-9](?![0-9A-Za-z_]) )
                )
              | (?P<iban2>(?<=[A-Za-z]{2}.)(?<![0-9A-Za-z_][A-Za-z]{2}.) [0-9][ -]?[0-9A-Za-z]{4} )
            )
          | (?<=[A-Z][ -].) (?=
                (?P<gb3>  (?<=[A-Z]{2}[ ].)(?<![0-9A-Za-z_][A-Z]{2}[ ].)
                          [0-9][ ][0-9]{2}[ ][0-9]{2}[ ][A-D](?![0-9A-Za-z_]) )
              | (?P<es2>  (?<=[XYZ]-.)(?<![0-9A-Za-z_][XYZ]-.) [0-9]{6}-[A-Z](?![0-9A-Za-z_]) )
            )
          | (?<![A-Za-z_].) (?<![0-9][.-].) (?![09][0-9]{2}-[01][0-9]-[0-3][0-9](?:[^0-9-]|\Z))
            (?P<plain>(?=[0-9]{0,2}\.[0-9.]{4}|[0-9 ()./+-]{8}|[0-9]{5,7}-?[A-Z]))
          |
        ) [0-9]*+
    )
    """,
    re.VERBOSE | re.DOTALL,
)

_AFTER = r"(?![0-9A-Za-z_]|[.-][0-9])"
# The alternatives are tried in this order, so those that say more stand first.
_shape = re.compile(
    rf"""
    (?P<ip>[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}})(?![0-9A-Za-z_]|\.[0-9])
  | (?P<br>[0-9]{{3}}\.[0-9]{{3}}\.[0-9]{{3}}-[0-9]{{2}}){_AFTER}
  | (?P<international>\(?(?:\+[ ]?|00[ ]?(?=[17][ .-]|[1-9][0-9]))[1-9](?:[ ./()-]{{0,3}}[0-9]){{7,14}}){_AFTER}
  | (?P<parentheses>\([0-9]{{2,5}}\)[ /-]?[0-9]{{2,5}}(?:[ .-]?[0-9]{{2,4}}){{1,4}}){_AFTER}
  | (?P<card>[2-68][0-9]{{3}}(?P<s1>[ -])[0-9]{{4}}(?P=s1)[0-9]{{4}}(?P=s1)[0-9]{{4}}(?:(?P=s1)[0-9]{{3}})?
      | 3[0-9]{{3}}(?P<s2>[ -])[0-9]{{6}}(?P=s2)[0-9]{{4,5}}){_AFTER}
  | (?P<ssn>[0-9]{{3}}(?P<s3>[ -])[0-9]{{2}}(?P=s3)[0-9]{{4}}){_AFTER}
  | (?P<ch>756\.[0-9]{{4}}\.[0-9]{{4}}\.[0-9]{{2}}){_AFTER}
  | (?P<be>[0-9]{{2}}\.[0-9]{{2}}\.[0-9]{{2}}-[0-9]{{3}}\.[0-9]{{2}}){_AFTER}
  | (?P<fr>[12][ ][0-9]{{2}}[ ][0-9]{{2}}[ ][0-9][0-9AB][ ][0-9]{{3}}[ ][0-9]{{3}}[ ][0-9]{{2}}){_AFTER}
  | (?P<kr>[0-9]{{6}}-[0-9]{{7}}){_AFTER}
  | (?P<se>(?:18|19|20)?[0-9]{{6}}[-+][0-9]{{4}}){_AFTER}
  | (?P<fi>[0-9]{{6}}[-+A-FU-Y][0-9]{{3}}[0-9A-Y]){_AFTER}
  | (?P<de>[1-9][0-9][ ][0-9]{{3}}[ ][0-9]{{3}}[ ][0-9]{{3}}){_AFTER}
  | (?P<es>[0-9]{{8}}-?[A-Z]){_AFTER}
  | (?P<cn>[1-9][0-9]{{16}}[0-9Xx]){_AFTER}
  | (?P<american>(?:1[-. ])?[2-9][0-9]{{2}}(?P<s4>[.-])[2-9][0-9]{{2}}(?P=s4)[0-9]{{4}}){_AFTER}
  | (?P<brazilian>[1-9][0-9][ ]9[0-9]{{4}}-[0-9]{{4}}){_AFTER}
  | (?P<trunk>0[1-9][0-9]{{0,3}}(?:[ ]?/[ ]?|[ .-])[0-9]{{2,8}}(?:[ .-][0-9]{{2,4}}){{0,4}}){_AFTER}
  | (?P<run>[0-9]{{9,19}}){_AFTER}
  | (?P<groups>[0-9]{{2,5}}(?:[ .-][0-9]{{2,9}}){{1,5}}){_AFTER}
    """.encode(),
    re.VERBOSE,
)
_COUNTRIES = frozenset({"br", "ch", "be", "fr", "kr", "se", "fi", "de", "es", "cn"})
_LETTERED = {"it6": "it", "es1": "es-nie", "es2": "es-nie", "in5": "in-pan", "mx4": "mx"}
_RUNS = {11: ("de", "pl", "no", "be"), 13: ("za",), 15: ("fr",), 18: ("cn",)}
"""National ids that are told by their digits alone, by how many there are."""

_date = re.compile(
    rb"(?:19|20)[0-9]{2}([-. ])[01]?[0-9]\1[0-3]?[0-9]\b|[0-3]?[0-9]([-. ])[01]?[0-9]\2(?:19|20)[0-9]{2}\b"
)
_NOT_DIGITS = b" .-()/+"

_version = re.compile(r"(?i)(?:\bversions?|\bver\.?|\brelease|\bbuild|\bv|[a-z]/)[ :=]*$")


class Numbers:
    """The next number of one of `kinds`."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds

    def next(self, text: Folded, begin: int) -> Finding | None:
        """The first finding that starts at `begin` or later."""
        for trigger in _trigger.finditer(text.data, begin):
            group = trigger.lastgroup
            if group is None:
                continue
            if group in ("plain", "sign"):
                found = self._plain(text, trigger.start())
            else:
                found = self._lettered(text, group, trigger)
            if found is not None and found.start >= begin:
                return found
        return None

    def _lettered(self, text: Folded, group: str, trigger: re.Match[bytes]) -> Finding | None:
        """A number that begins with letters; how many of them stand before the trigger is the name's last character."""
        start = trigger.start() - int(group[-1])
        if group == "iban2":
            end = _iban_end(text.data, start) if "iban" in self._kinds else 0
            return Finding("iban", start, end) if end else None
        if "national_id" not in self._kinds:
            return None
        end = trigger.end(group)
        written = text.folded[start:end]
        good = checks.nino(written) if group in ("gb2", "gb3") else checks.IDS[_LETTERED[group]](written)
        return Finding("national_id", start, end) if good else None

    def _plain(self, text: Folded, start: int) -> Finding | None:
        shape = _shape.match(text.data, start)
        if shape is None:
            return None
        group = shape.lastgroup
        assert group is not None
        end = shape.end()
        digits = shape[0].translate(None, _NOT_DIGITS).decode()
        if group in _COUNTRIES:
            good = "national_id" in self._kinds and checks.IDS[group](shape[0].decode())
            if group == "se" and not good and "national_id" in self._kinds:
                good = checks.IDS["fi"](shape[0].decode())
            return Finding("national_id", start, end) if good else None
        match group:
            case "run":
                kind = self._run(text, start, digits)
            case "groups":
                kind = None if _date.match(shape[0]) else self._said(text, start, digits)
            case "ip":
                good = checks.ipv4(shape[0].decode()) and not _version.search(text.folded, max(0, start - 12), start)
                kind = "ip" if good else None
            case "trunk":
                kind = self._identified(digits, text.words.before(start)) or (
                    "phone" if _with_trunk_zero(text, start, shape[0], digits) else None
                )
            case "card":
                end = _card_end(digits, start, end)
                kind = "card" if end else None
            case "ssn":
                good = checks.ssn(digits) and (b"-" in shape[0] or "us" in text.words.before(start))
                kind = "ssn" if good else None
            case _:
                kind = "phone" if _PHONES[group](text, start, shape[0], digits) else None
        return Finding(kind, start, end) if kind in self._kinds and kind is not None else None

    def _run(self, text: Folded, start: int, digits: str) -> str | None:
        """The kind of a number without separators."""
        if len(digits) >= 14 and checks.card(digits):
            return "card"
        if "national_id" in self._kinds:
            for country in _RUNS.get(len(digits), ()):
                if checks.PLAUSIBLE[country](digits) and checks.IDS[country](digits):
                    return "phone" if "phone" in text.words.before(start) else "national_id"
        return self._said(text, start, digits)

    def _said(self, text: Folded, start: int, digits: str) -> str | None:
        """The kind of a number that is known only by the words before it."""
        if not 9 <= len(digits) <= 12:
            return None
        said = text.words.before(start)
        return self._identified(digits, said) or ("phone" if "phone" in said else None)

    def _identified(self, digits: str, said: set[str]) -> str | None:
        for country in said - {"phone"}:
            if country == "us" and len(digits) == 9 and checks.ssn(digits) and "ssn" in self._kinds:
                return "ssn"
            if country != "us" and "national_id" in self._kinds and checks.IDS[country](digits):
                return "national_id"
        return None


def _iban_end(data: bytes, start: int) -> int:
    """Where the IBAN that begins at `start` ends, 0 where none does. Its country says how long it is."""
    left = checks.IBAN_LENGTHS.get(data[start : start + 2].decode().upper())
    if left is None:
        return 0
    # Together, or in groups of four.
    separators = 0 if data[start + 4 : start + 5].isalnum() else (left - 1) // 4
    end = start + left + separators
    written = data[start:end]
    separator = written[4:5] if separators else b""
    compact = b"".join([written[at : at + 4] for at in range(0, len(written), 5)]) if separators else written
    if len(written) < left + separators or not compact.isalnum() or not compact.isascii():
        return 0
    if written[4::5] != separator * separators and separators:
        return 0
    after = data[end : end + 1]
    return end if not (after.isalnum() and after.isascii()) and checks.iban(compact.decode().upper()) else 0


def _card_end(digits: str, start: int, end: int) -> int:
    """Where a card's number in groups ends: a last group of three may be its end, or its security code."""
    if checks.card(digits):
        return end
    return start + 19 if len(digits) == 19 and checks.card(digits[:16]) else 0


def _in_row(text: Folded, start: int) -> bool:
    """Whether a number and a space stand before: then it is one of many, in a table, an account or a dump."""
    return text.data[start - 1 : start] == b" " and text.data[start - 2 : start - 1].isdigit()


def _is_international(text: Folded, start: int, written: bytes, digits: str) -> bool:
    if b"+" in written:
        return checks.international(digits)
    # Two zeros also begin the numbers of orders: then the groups, or a word, must say what it is.
    spoken = len(written) > len(digits) or "phone" in text.words.before(start)
    return spoken and checks.international(digits[2:]) and not _in_row(text, start)


def _in_parentheses(_: Folded, __: int, written: bytes, digits: str) -> bool:
    area = written.index(b")") - 1
    if digits[0] == "0":
        return 9 <= len(digits) <= 12
    if area == 3:
        return len(digits) == 10 and checks.north_american(digits)
    return area == 2 and len(digits) in (10, 11) and digits[1] != "0"  # Brazil's


def _is_american(_: Folded, __: int, ___: bytes, digits: str) -> bool:
    return checks.north_american(digits[-10:])


def _is_brazilian(_: Folded, __: int, ___: bytes, ____: str) -> bool:
    return True


def _with_trunk_zero(text: Folded, start: int, written: bytes, digits: str) -> bool:
    return 9 <= len(digits) <= 12 and not _in_row(text, start) and not _date.match(written)


_PHONES = {
    "international": _is_international,
    "parentheses": _in_parentheses,
    "american": _is_american,
    "brazilian": _is_brazilian,
}
