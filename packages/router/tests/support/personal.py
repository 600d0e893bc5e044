"""Made-up personal data and secrets, each valid by its kind's own rules; check digits are computed here.

Everything is a function of the `Random` that is passed in.
"""

import string
from collections.abc import Callable
from datetime import date, timedelta
from random import Random

LETTERS = string.ascii_letters + string.digits
BASE64URL = LETTERS + "-_"
HEX = "0123456789abcdef"

Make = Callable[[Random], str]


def digits(random: Random, count: int) -> str:
    """`count` digits."""
    return "".join(random.choices(string.digits, k=count))


def drawn(random: Random, alphabet: str, count: int) -> str:
    """`count` characters, at least one of them a digit and one a capital where the alphabet has such."""
    text = random.choices(alphabet, k=count)
    for place, needed in enumerate((string.digits, string.ascii_uppercase)):
        some = [character for character in needed if character in alphabet]
        if some:
            text[place + 3] = random.choice(some)
    return "".join(text)


def grouped(text: str, *sizes: int, sep: str = " ") -> str:
    """`text` in groups of these sizes."""
    parts, at = [], 0
    for size in sizes:
        parts.append(text[at : at + size])
        at += size
    assert at == len(text)
    return sep.join(parts)


def born(random: Random, first: int = 1930, last: int = 1999) -> date:
    """A day of birth."""
    return date(first, 1, 1) + timedelta(days=random.randrange((last - first) * 365))


def luhn_digit(number: str) -> str:
    """The digit that completes `number` by Luhn."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


# Payment cards.


def card(prefixes: tuple[str, ...], length: int) -> Make:
    """Cards of an issuer, written in the usual ways."""

    def make(random: Random) -> str:
        body = random.choice(prefixes)
        body += digits(random, length - 1 - len(body))
        number = body + luhn_digit(body)
        sep = random.choice(("", " ", "-", " "))
        if length == 15:
            return grouped(number, 4, 6, 5, sep=sep)
        return grouped(number, 4, 4, 4, 4, sep=sep)

    return make


# IBANs: country, length of what follows the check digits, and its letters.

_IBANS = (
    ("DE", "9" * 18),
    ("GB", "AAAA" + "9" * 14),
    ("FR", "9" * 23),
    ("ES", "9" * 20),
    ("IT", "A" + "9" * 22),
    ("NL", "AAAA" + "9" * 10),
    ("PL", "9" * 24),
    ("CH", "9" * 17),
    ("BE", "9" * 12),
    ("PT", "9" * 21),
    ("SE", "9" * 20),
    ("AT", "9" * 16),
)


def iban(random: Random) -> str:
    """An IBAN, in groups of four, together, with dashes, or in lower case."""
    country, shape = random.choice(_IBANS)
    body = "".join(random.choice(string.ascii_uppercase if c == "A" else string.digits) for c in shape)
    number = int("".join(str(int(c, 36)) for c in body + country + "00"))
    whole = f"{country}{98 - number % 97:02}{body}"
    way = random.randrange(8)
    if way < 4:
        return " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))
    if way == 4:
        return "-".join(whole[at : at + 4] for at in range(0, len(whole), 4))
    return whole.lower() if way == 5 else whole


# National ids.


def ssn(random: Random) -> str:
    """A US social security number."""
    area = random.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03}-{random.randrange(1, 100):02}-{random.randrange(1, 10000):04}"


def es_dni(random: Random) -> str:
    """Spain: eight digits and a letter."""
    number = random.randrange(10**7, 10**8)
    return f"{number}{random.choice(('', '', '-'))}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def es_nie(random: Random) -> str:
    """Spain, foreigners."""
    first = random.randrange(3)
    number = random.randrange(10**7)
    return f"{'XYZ'[first]}{number:07}{'TRWAGMYFPDXBNJZSQVHLCKE'[(first * 10**7 + number) % 23]}"


def gb_nino(random: Random) -> str:
    """United Kingdom: National Insurance number."""
    while True:
        first, second = random.choice("ABCEGHJKLMNOPRSTWXYZ"), random.choice("ABCEGHJKLMNPRSTWXYZ")
        if first + second not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ"):
            break
    number = digits(random, 6)
    if random.random() < 0.5:
        return f"{first}{second}{number}{random.choice('ABCD')}"
    return f"{first}{second} {grouped(number, 2, 2, 2)} {random.choice('ABCD')}"


def gb_nhs(random: Random) -> str:
    """United Kingdom: NHS number, by eleven."""
    while True:
        body = str(random.randrange(400_000_000, 499_999_999))
        check = 11 - sum(int(d) * w for d, w in zip(body, range(10, 1, -1), strict=True)) % 11
        if check != 10:
            return grouped(f"{body}{check % 11}", 3, 3, 4, sep=random.choice((" ", " ", "")))


def fr_nir(random: Random) -> str:
    """France: social security number, by 97."""
    day = born(random)
    body = f"{random.choice('12')}{day:%y%m}{random.randrange(1, 96):02}{random.randrange(1, 990):03}"
    if body[5:7] == "20":
        body = body[:5] + "21" + body[7:]
    body += f"{random.randrange(1, 1000):03}"
    whole = f"{body}{97 - int(body) % 97:02}"
    return grouped(whole, 1, 2, 2, 2, 3, 3, 2) if random.random() < 0.6 else whole


def de_idnr(random: Random) -> str:
    """Germany: tax id; ten digits of which one stands twice, by ISO 7064."""
    while True:
        chosen = random.sample(string.digits, 9)
        body = [*chosen, random.choice(chosen)]
        random.shuffle(body)
        if body[0] != "0":
            break
    product = 10
    for digit in body:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    whole = "".join(body) + str((11 - product) % 10)
    return grouped(whole, 2, 3, 3, 3) if random.random() < 0.5 else whole


def nl_bsn(random: Random) -> str:
    """Netherlands: nine digits, by eleven."""
    while True:
        body = str(random.randrange(10**7, 10**8))
        check = sum(int(d) * w for d, w in zip(body, range(9, 1, -1), strict=True)) % 11
        if check < 10:
            return f"{body}{check}"


def pl_pesel(random: Random) -> str:
    """Poland: date of birth and a check digit."""
    body = f"{born(random):%y%m%d}{digits(random, 4)}"
    total = sum(int(d) * w for d, w in zip(body, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), strict=True))
    return f"{body}{-total % 10}"


def br_cpf(random: Random) -> str:
    """Brazil: two check digits by eleven."""
    body = digits(random, 9)
    for _ in range(2):
        total = sum(int(d) * w for d, w in zip(body, range(len(body) + 1, 1, -1), strict=True))
        body += str(0 if total % 11 < 2 else 11 - total % 11)
    return f"{body[:3]}.{body[3:6]}.{body[6:9]}-{body[9:]}"


def it_cf(random: Random) -> str:
    """Italy: codice fiscale."""
    day = born(random)
    female = 40 if random.random() < 0.5 else 0
    body = "".join(random.choices("BCDFGLMNPRSTVZ", k=6))
    body += f"{day:%y}{'ABCDEHLMPRST'[day.month - 1]}{day.day + female:02}"
    body += random.choice("ABCDEFGHIL") + f"{random.randrange(1, 1000):03}"
    odd = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", _CF_ODD, strict=True)) | dict(
        zip(string.digits, _CF_ODD, strict=False)
    )
    even = {c: int(c, 36) - 10 for c in string.ascii_uppercase} | {c: int(c) for c in string.digits}
    total = sum((odd if place % 2 == 0 else even)[c] for place, c in enumerate(body))
    return body + string.ascii_uppercase[total % 26]


_CF_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)


def se_pnr(random: Random) -> str:
    """Sweden: personnummer, by Luhn."""
    body = f"{born(random):%y%m%d}{digits(random, 3)}"
    return f"{random.choice(('', '19'))}{body[:6]}-{body[6:]}{luhn_digit(body)}"


def fi_hetu(random: Random) -> str:
    """Finland: by 31."""
    day, serial = f"{born(random):%d%m%y}", f"{random.randrange(2, 900):03}"
    return f"{day}-{serial}{'0123456789ABCDEFHJKLMNPRSTUVWXY'[int(day + serial) % 31]}"


def no_fnr(random: Random) -> str:
    """Norway: two check digits by eleven."""
    while True:
        body = f"{born(random, 1940):%d%m%y}{random.randrange(0, 500):03}"
        first = -sum(int(d) * w for d, w in zip(body, (3, 7, 6, 1, 8, 9, 4, 5, 2), strict=True)) % 11
        weights = (5, 4, 3, 2, 7, 6, 5, 4, 3)
        second = -(sum(int(d) * w for d, w in zip(body, weights, strict=True)) + 2 * first) % 11
        if first < 10 and second < 10:
            return f"{body}{first}{second}"


def be_nn(random: Random) -> str:
    """Belgium: by 97."""
    body = f"{born(random):%y%m%d}{random.randrange(1, 998):03}"
    check = f"{97 - int(body) % 97:02}"
    return f"{body[:2]}.{body[2:4]}.{body[4:6]}-{body[6:]}.{check}"


def ch_ahv(random: Random) -> str:
    """Switzerland: AHV number, by EAN-13."""
    body = f"756{digits(random, 9)}"
    total = sum(int(d) * (3 if place % 2 else 1) for place, d in enumerate(body))
    return grouped(f"{body}{-total % 10}", 3, 4, 4, 2, sep=".")


def cn_ric(random: Random) -> str:
    """China: resident identity card, by ISO 7064 mod 11-2."""
    body = f"{random.choice(('110101', '310104', '440305', '510104'))}{born(random):%Y%m%d}{digits(random, 3)}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(d) * w for d, w in zip(body, weights, strict=True))
    return body + "10X98765432"[total % 11]


def kr_rrn(random: Random) -> str:
    """South Korea: resident registration number."""
    body = f"{born(random):%y%m%d}{random.choice('12')}{random.randrange(1, 90):02}{digits(random, 3)}"
    total = sum(int(d) * w for d, w in zip(body, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=True))
    return f"{body[:6]}-{body[6:]}{(11 - total % 11) % 10}"


def in_aadhaar(random: Random) -> str:
    """India: Aadhaar, by Verhoeff."""
    body = str(random.randrange(20_000_000_000, 99_999_999_999))
    check = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit)
        for _ in range((place + 1) % 8):
            value = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[value]
        check = _dihedral(check, value)
    inverse = next(d for d in range(10) if _dihedral(check, d) == 0)
    return grouped(f"{body}{inverse}", 4, 4, 4)


def _dihedral(a: int, b: int) -> int:
    """The group of a pentagon's symmetries, which Verhoeff's digit is made in."""
    if a < 5:
        return (a + b) % 5 if b < 5 else (a + b) % 5 + 5
    return (a - b) % 5 + 5 if b < 5 else (a - b) % 5


def in_pan(random: Random) -> str:
    """India: permanent account number of a person."""
    letters = string.ascii_uppercase
    return (
        f"{''.join(random.choices(letters, k=3))}P{random.choice(letters)}{random.randrange(1, 10000):04}"
        f"{random.choice(letters)}"
    )


def ca_sin(random: Random) -> str:
    """Canada: social insurance number, by Luhn."""
    body = f"{random.choice('1234567')}{digits(random, 7)}"
    return grouped(body + luhn_digit(body), 3, 3, 3, sep=random.choice((" ", "-")))


def jp_number(random: Random) -> str:
    """Japan: individual number, by eleven."""
    body = digits(random, 11)
    weights = (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)
    rest = sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11
    return grouped(f"{body}{0 if rest <= 1 else 11 - rest}", 4, 4, 4, sep=random.choice((" ", "-", "")))


def tr_kimlik(random: Random) -> str:
    """Turkey: two check digits."""
    body = f"{random.randrange(1, 10)}{digits(random, 8)}"
    odd, even = sum(map(int, body[::2])), sum(map(int, body[1::2]))
    tenth = (odd * 7 - even) % 10
    return f"{body}{tenth}{(odd + even + tenth) % 10}"


def za_id(random: Random) -> str:
    """South Africa: date of birth, by Luhn."""
    body = f"{born(random):%y%m%d}{digits(random, 4)}0{random.choice('89')}"
    return body + luhn_digit(body)


# Addresses.

_FIRST = "anna jan marie luca sofia piotr joao yuki emma paul chloe hugo lars ines tom"
_LAST = "mueller smith dubois rossi garcia kowalski silva tanaka devries jansen oconnor lopez"
_DOMAINS = (
    "example.com example.org mail.example.net firma-beispiel.de exemple.fr ejemplo.es esempio.it voorbeeld.nl "
    "przyklad.com.pl exemplo.com.br rei.co.jp company.co.uk uni.example.edu sub.domain.example.io"
)


def email(random: Random) -> str:
    """An e-mail address."""
    first, last = random.choice(_FIRST.split()), random.choice(_LAST.split())
    local = random.choice(
        (f"{first}.{last}", f"{first}{random.randrange(100)}", f"{first[0]}{last}", f"{first}_{last}")
    )
    if random.random() < 0.15:
        local += "+news"
    return f"{local.title() if random.random() < 0.1 else local}@{random.choice(_DOMAINS.split())}"


def ipv4(random: Random) -> str:
    """A private or public IPv4 address."""
    first = random.choice((10, 172, 192, random.randrange(1, 127), random.randrange(128, 224)))
    return f"{first}.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def ipv6(random: Random) -> str:
    """A global, unique local or link-local IPv6 address, whole or shortened."""
    first = random.choice(("2001", "2a02", "2606", "fd12", "fe80", "2003"))
    groups = [f"{random.randrange(1, 65536):x}" for _ in range(7)]
    if random.random() < 0.5:
        return ":".join([first, *groups])
    kept = random.randrange(1, 5)
    return f"{first}:{':'.join(groups[:kept])}::{groups[-1]}"


# Secrets. None is written out here, so that no scanner takes this file for a leak.


def prefixed(prefix: str, alphabet: str, count: int) -> Make:
    """A token of a vendor."""
    return lambda random: prefix + drawn(random, alphabet, count)


def jwt(random: Random) -> str:
    """A signed token, as long as they get."""
    header = "eyJ" + random.choice(("hbGciOiJSUzI1NiIs", "0eXAiOiJKV1QiLCJh", "raWQiOiIxIiwiYWxn"))
    payload = drawn(random, BASE64URL, random.randrange(60, 900))
    return f"{header}{drawn(random, BASE64URL, 20)}.eyJ{payload}.{drawn(random, BASE64URL, 86)}"


def private_key(random: Random) -> str:
    """A PEM block."""
    kind = random.choice(("RSA ", "EC ", "", "OPENSSH ", "ENCRYPTED "))
    lines = [drawn(random, LETTERS + "+/", 64) for _ in range(random.randrange(3, 26))]
    lines.append(drawn(random, LETTERS + "+/", 22) + "==")
    return "\n".join([f"-----BEGIN {kind}PRIVATE KEY-----", *lines, f"-----END {kind}PRIVATE KEY-----"])


def connection(random: Random) -> str:
    """A URL with a password in it."""
    scheme = random.choice(("postgresql", "mysql", "mongodb+srv", "redis", "amqps", "https"))
    user = random.choice((*_FIRST.split(), "app", "svc_orders", "" if scheme == "redis" else "root"))
    host = random.choice(("db.internal", "cluster0.example.net", "10.2.3.4:5432", "cache:6379"))
    path = random.choice(("prod", "orders?ssl=true", "0"))
    return f"{scheme}://{user}:{drawn(random, LETTERS + '!_-.', 14)}@{host}/{path}"


def aws_secret(random: Random) -> str:
    """Forty characters that only their name gives away."""
    return drawn(random, LETTERS + "/+", 40).lstrip("/")


def password(random: Random) -> str:
    """A password with a digit."""
    return drawn(random, LETTERS + "!@#%^*_-+=.?", random.randrange(10, 20)).lstrip("%*.@?")
