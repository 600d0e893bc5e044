"""Does a number hold what its kind demands: check digits, dates, prefixes, lengths. Pure.

National ids are judged by python-stdnum, which only sees what has the right shape.
"""

import re
from collections.abc import Callable, Container

from stdnum.be import nn as be_nn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar, pan
from stdnum.iso7064 import mod_11_2
from stdnum.it import codicefiscale
from stdnum.jp import in_ as my_number
from stdnum.kr import rrn
from stdnum.mx import curp
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.tr import tckimlik
from stdnum.za import idnr as za_idnr

IdCheck = Callable[[str], bool]

# ISO 13616: characters of an IBAN by its country.
IBAN_LENGTHS = {
    "AD": 24,
    "AE": 23,
    "AL": 28,
    "AT": 20,
    "AZ": 28,
    "BA": 20,
    "BE": 16,
    "BG": 22,
    "BH": 22,
    "BI": 27,
    "BR": 29,
    "BY": 28,
    "CH": 21,
    "CR": 22,
    "CY": 28,
    "CZ": 24,
    "DE": 22,
    "DJ": 27,
    "DK": 18,
    "DO": 28,
    "EE": 20,
    "EG": 29,
    "ES": 24,
    "FI": 18,
    "FK": 18,
    "FO": 18,
    "FR": 27,
    "GB": 22,
    "GE": 22,
    "GI": 23,
    "GL": 18,
    "GR": 27,
    "GT": 28,
    "HN": 28,
    "HR": 21,
    "HU": 28,
    "IE": 22,
    "IL": 23,
    "IQ": 23,
    "IS": 26,
    "IT": 27,
    "JO": 30,
    "KW": 30,
    "KZ": 20,
    "LB": 28,
    "LC": 32,
    "LI": 21,
    "LT": 20,
    "LU": 20,
    "LV": 21,
    "LY": 25,
    "MC": 27,
    "MD": 24,
    "ME": 22,
    "MK": 19,
    "MN": 20,
    "MR": 27,
    "MT": 31,
    "MU": 30,
    "NI": 28,
    "NL": 18,
    "NO": 15,
    "OM": 23,
    "PK": 24,
    "PL": 28,
    "PS": 29,
    "PT": 25,
    "QA": 29,
    "RO": 24,
    "RS": 22,
    "RU": 33,
    "SA": 24,
    "SC": 31,
    "SD": 18,
    "SE": 24,
    "SI": 19,
    "SK": 24,
    "SM": 27,
    "SO": 23,
    "ST": 25,
    "SV": 28,
    "TL": 23,
    "TN": 24,
    "TR": 26,
    "UA": 29,
    "VA": 22,
    "VG": 24,
    "XK": 20,
    "YE": 30,
}

# ITU-T E.164: the country codes that are assigned, without North America's, which has rules of its own.
_country_code = re.compile(
    "7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    "|2[1-69][0-9]|3[578][0-9]|42[0-9]|5[09][0-9]|6[789][0-9]|8[0578][0-9]|9[679][0-9]"
)

# ISO/IEC 7812: the first four digits that an issuer's cards have, from and to, and how many digits there are. Visa's
# of 13 digits are no longer issued, and look like the numbers of goods.
_ISSUERS: tuple[tuple[int, int, Container[int]], ...] = (
    (2200, 2204, range(16, 20)),  # Mir
    (2221, 2720, (16,)),  # Mastercard
    (3000, 3059, (14, 16)),  # Diners Club
    (3400, 3499, (15,)),  # American Express
    (3528, 3589, range(16, 20)),  # JCB
    (3600, 3699, (14, 16)),  # Diners Club
    (3700, 3799, (15,)),  # American Express
    (3800, 3999, (14, 16)),  # Diners Club
    (4000, 4999, (16, 19)),  # Visa
    (5000, 5099, range(16, 20)),  # Maestro, Elo
    (5100, 5599, (16,)),  # Mastercard
    (5600, 5899, range(16, 20)),  # Maestro
    (6000, 6099, range(16, 20)),  # Discover, RuPay
    (6200, 6599, range(16, 20)),  # UnionPay, Maestro, Discover, RuPay
    (6700, 6799, range(16, 20)),  # Maestro
    (8100, 8299, range(16, 20)),  # UnionPay, RuPay
)

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
# NINO: prefixes that are never given out, beside the letters that never stand there.
_NINO_NEVER = frozenset({"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"})


def luhn(digits: str) -> bool:
    """ISO/IEC 7812's check digit."""
    return (
        sum(map(int, digits[-1::-2])) + sum(_DOUBLED[int(digit)] for digit in digits[-2::-2])
    ) % 10 == 0 and digits.strip("0") != ""


def card(digits: str) -> bool:
    """A payment card's number: an issuer's range, its length, the check digit."""
    issuer = int(digits[:4])
    return any(first <= issuer <= last and len(digits) in lengths for first, last, lengths in _ISSUERS) and luhn(digits)


def iban(compact: str) -> bool:
    """ISO 13616: the remainder by 97, of an IBAN in upper case without spaces whose length is right."""
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def ssn(digits: str) -> bool:
    """What the Social Security Administration gives out: no area 000, 666 or 9xx, no group 00, no serial 0000."""
    return digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


def resident_id(number: str) -> bool:
    """China's: a place, a date of birth, a serial and a check digit by ISO 7064. The table of places is never whole."""
    year, month, day = int(number[6:10]), int(number[10:12]), int(number[12:14])
    return 1900 <= year < 2100 and 0 < month < 13 and 0 < day < 32 and bool(mod_11_2.is_valid(number.upper()))


def nino(compact: str) -> bool:
    """A British National Insurance number: it has no check digit, but letters that never stand in it."""
    return compact[0] not in "DFIQUV" and compact[1] not in "DFIOQUV" and compact[:2] not in _NINO_NEVER


def international(digits: str) -> bool:
    """A telephone number from its country code on: one that is assigned, and a plausible length."""
    if digits[0] == "1":
        return len(digits) == 11 and north_american(digits[1:])
    code = _country_code.match(digits)
    # A "(0)" before the area code is counted along.
    return code is not None and 7 <= len(digits) - code.end() <= 13


def north_american(digits: str) -> bool:
    """Ten digits of the North American plan: neither area nor exchange begins with 0 or 1."""
    return digits[0] > "1" and digits[3] > "1" and digits[1:3] != "11" and digits[4:6] != "11"


def ipv4(text: str) -> bool:
    """Four numbers up to 255; not those that every machine has."""
    parts = text.split(".")
    return (
        all(int(part) < 256 and (part == "0" or part[0] != "0") for part in parts)
        and parts[0] != "127"
        and text not in ("0.0.0.0", "255.255.255.255")  # noqa: S104  # nothing is bound to it
    )


IDS: dict[str, IdCheck] = {
    "be": be_nn.is_valid,
    "br": cpf.is_valid,
    "ca": sin.is_valid,
    "ch": ahv.is_valid,
    "cn": resident_id,
    "de": idnr.is_valid,
    "es": dni.is_valid,
    "es-nie": nie.is_valid,
    "fi": hetu.is_valid,
    "fr": nir.is_valid,
    "gb-nhs": nhs.is_valid,
    "in": aadhaar.is_valid,
    "in-pan": pan.is_valid,
    "it": codicefiscale.is_valid,
    "jp": my_number.is_valid,
    "kr": rrn.is_valid,
    "mx": curp.is_valid,
    "nl": bsn.is_valid,
    "no": fodselsnummer.is_valid,
    "pl": pesel.is_valid,
    "se": personnummer.is_valid,
    "tr": tckimlik.is_valid,
    "za": za_idnr.is_valid,
}
"""By country: whether a number written in one of its usual ways is one."""

PLAUSIBLE: dict[str, IdCheck] = {
    "be": lambda digits: int(digits[9:]) in (97 - int(digits[:9]) % 97, 97 - int("2" + digits[:9]) % 97),
    "cn": lambda digits: digits[6:8] in ("19", "20"),
    "de": lambda digits: len(set(digits[:10])) in (8, 9),
    "fr": lambda digits: int(digits[13:]) == 97 - int(digits[:13]) % 97,
    "no": lambda digits: 0 < int(digits[:2]) % 40 < 32 and 0 < int(digits[2:4]) % 40 < 13,
    "pl": lambda digits: 0 < int(digits[4:6]) < 32 and 0 < int(digits[2:4]) % 20 < 13,
    "za": lambda digits: 0 < int(digits[2:4]) < 13 and 0 < int(digits[4:6]) < 32,
}
"""What a run of digits can be at all, at a tenth of the cost of the whole check; most numbers are none."""
