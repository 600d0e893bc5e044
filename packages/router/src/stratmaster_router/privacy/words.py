"""Words that say what a number behind them is, such as `Tel.` or `BSN`: for shapes that many harmless numbers share."""

import re
from bisect import bisect_right

import re2

_REACH = 40  # characters between a word and its number

_STEMS = "phone|telefo|téléph|teléfo|teleph|mobil|mobiel|handynu|rufnum|telnum|cellphone|zadzwo|komórk|komork|callback"
_PHONE = (
    "tel|tél|tels|telf|mob|movil|móvil|cell|celular|contact|fax|gsm|handy|msisdn|ring|ruf|sms|viber|whatsapp|call|called"
    "|bel|bellen|portable|ligue|llama|llámame|llámanos|appelez|chiama|cellulare|anrufen|durchwahl"
)
_IDS = {
    **dict.fromkeys(("ssn", "social security"), "us"),
    **dict.fromkeys(("bsn", "burgerservicenummer", "sofinummer"), "nl"),
    **dict.fromkeys(("sin", "nas", "social insurance"), "ca"),
    **dict.fromkeys(("aadhaar", "aadhar", "uidai"), "in"),
    **dict.fromkeys(("kimlik", "tckn"), "tr"),
    "nhs": "gb-nhs",
    "cpf": "br",
    "mynumber": "jp",
    "my number": "jp",
}
# Written without spaces around them.
_SIGNS = {
    "電話": "phone",
    "携帯": "phone",
    "手机": "phone",
    "电话": "phone",
    "전화": "phone",
    "☎": "phone",
    "📞": "phone",
}
_SIGNS |= {"マイナンバー": "jp", "個人番号": "jp"}

# Another number, or the end of the line that the word stands on, ends what a word speaks of.
_elsewhere = re.compile(rb"[0-9]{2}|\n\s*\S")
_sign = re.compile("|".join(_SIGNS))


def _pattern() -> "re2._Regexp":
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.case_sensitive = False
    # An underscore is part of a name in code and in JSON: `mobile_phone`, `userPhone`.
    text = rf"(?:\b|_)(?:{_STEMS}|(?:{_PHONE}|{'|'.join(_IDS)})(?:\b|_))|(?-i:Phone|Mobile|Telefon)"
    return re2.compile(text.encode("latin-1"), options)


_word = _pattern()


class Words:
    """The words of a text, each with where it ends and what it announces: a `phone`, or the id of a country."""

    def __init__(self, folded: str, data: bytes) -> None:
        self._data = data
        words = [
            (match.end(), _IDS.get(match[0].strip(b"_").decode("latin-1").lower(), "phone"))
            for match in _word.finditer(data)
        ]
        if not folded.isascii():
            words += [(match.end(), _SIGNS[match[0]]) for match in _sign.finditer(folded)]
            words.sort()
        self._words = words
        self._ends = [end for end, _ in words]

    def before(self, start: int) -> set[str]:
        """What the words that stand right before `start` announce."""
        said: set[str] = set()
        at = bisect_right(self._ends, start) - 1
        while at >= 0 and self._ends[at] >= start - _REACH:
            if _elsewhere.search(self._data, self._ends[at], start):
                break
            said.add(self._words[at][1])
            at -= 1
        return said
