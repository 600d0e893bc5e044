"""Self-service keys: how one looks, and how it is hashed.

`smr_<id>_<secret><checksum>`: an id of 12 characters that may be shown, 256 random bits in 43, and a CRC-32 of all that
stands before it in 6. A leak scanner finds one by its shape; one that was mistyped or cut off fails its checksum, which
anybody can compute, so that this can be told without telling whether any key exists.
"""

import hmac
import re
import secrets
import string
import zlib

PREFIX = b"smr_"
LENGTH = 66
"""Characters of a key."""

ID = slice(4, 16)
"""Where in a key its id stands."""

_ID_ALPHABET = string.digits + string.ascii_lowercase
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET = 43  # digits for 256 bits
_CHECKSUM = 6  # digits for 32 bits

# docs/keys.md has it for leak scanners.
_shape = re.compile(rb"smr_[0-9a-z]{12}_[0-9A-Za-z]{49}").fullmatch


def new_key() -> tuple[str, str]:
    """A key that nobody has: its id, and its whole text."""
    key_id = "".join([secrets.choice(_ID_ALPHABET) for _ in range(12)])
    return key_id, whole_key(key_id, secrets.randbits(256))


def whole_key(key_id: str, secret: int) -> str:
    """The text of the key with this id and these 256 bits."""
    head = f"smr_{key_id}_{_written(secret, _SECRET)}"
    return head + _checksum(head.encode())


def visible_id(key: bytes) -> str | None:
    """The id of a key whose checksum is right; None for what is not a whole key."""
    if not _shape(key) or _checksum(key[:-_CHECKSUM]).encode() != key[-_CHECKSUM:]:
        return None
    return key[ID].decode()


def mistyped(key: bytes) -> bool:
    """Whether this was meant to be a self-service key and is not a whole one."""
    return key.startswith(PREFIX) and visible_id(key) is None


def _checksum(text: bytes) -> str:
    # Of CRCs the one that everybody has. It sees every change of one character, and of neighbours swapped.
    return _written(zlib.crc32(text), _CHECKSUM)


def _written(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


class Pepper:
    """The secret that keys are hashed with: a stolen database opens nothing without it.

    `check` tells whether two peppers are one.
    """

    def __init__(self, secret: bytes) -> None:
        self._keyed = hmac.new(secret, digestmod="sha256")
        self.check = self.digest(b"the check of this pepper")  # which no key can be

    def digest(self, key: bytes) -> bytes:
        """What is stored of `key`: 32 bytes."""
        keyed = self._keyed.copy()
        keyed.update(key)
        return keyed.digest()
