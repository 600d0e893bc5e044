"""Texts of ten locales with personal data and secrets at known places, among much that only looks like them.

Prose, JSON, source code, logs and tables; each sample is a function of its seed.
"""

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

from support import personal
from support.personal import BASE64URL, HEX, LETTERS, Make, digits, drawn, grouped, prefixed

LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL", "pt_BR", "ja_JP")
CLASSES = ("prose", "json", "code", "log", "table")

# `N` is 2 to 9, `n` 1 to 9, `#` any digit. The second ones are told from other numbers only by a word before them.
PHONES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "en_US": (
        (
            *("(N##) N##-####", "N##-N##-####", "N##.N##.####", "1-N##-N##-####", "+1 N## N## ####", "+1N##N######"),
            *(
                "+1 (N##) N##-####",
                "+1-N##-N##-####",
            ),
        ),
        ("N## N## ####", "N##N######"),
    ),
    "en_GB": (
        (
            *("020 7### ####", "07n## ######", "07n## ### ###", "0161 n## ####", "(020) 7### ####", "+44 20 7### ####"),
            *(
                "+44 7n## ######",
                "+44 (0)20 7### ####",
                "0044 7n## ######",
                "+447n########",
            ),
        ),
        ("07n########",),
    ),
    "de_DE": (
        (
            *("030 n######", "0171 n######", "0171/n######", "089/n#######", "(0221) n#####", "+49 170 n######"),
            *(
                "+49 30 n#######",
                "+49 (0)89 n######",
                "0049 171 n######",
                "040-n######",
                "0211 n# ## ##",
                "+4917nn######",
            ),
        ),
        ("0171n######",),
    ),
    "fr_FR": (
        (
            "0n ## ## ## ##",
            "0n.##.##.##.##",
            "+33 n ## ## ## ##",
            "+33n########",
            "0033 n ## ## ## ##",
            "0n-##-##-##-##",
        ),
        ("06########",),
    ),
    "es_ES": (
        ("+34 6## ### ###", "+34 6## ## ## ##", "+346########", "0034 9## ### ###"),
        ("6## ## ## ##", "9## ### ###", "6########", "6##-###-###"),
    ),
    "it_IT": (
        ("02 n### ####", "06 n#######", "+39 02 n### ####", "+39 333 n## ####", "+39 3## n######", "011-n######"),
        ("333 n## ####", "3## n######", "3n########"),
    ),
    "nl_NL": (
        (
            *("06-n#######", "020-n######", "06 n# ## ## ##", "010 n## ####", "+31 6 n#######", "+31 20 n## ####"),
            *("+31 (0)6 n#######",),
        ),
        ("06n#######",),
    ),
    "pl_PL": (
        ("+48 5## ### ###", "+48 22 n## ## ##", "+485########"),
        ("5## ### ###", "22 n## ## ##", "5########", "5##-###-###"),
    ),
    "pt_BR": (
        ("(11) 9####-####", "(21) n###-####", "11 9####-####", "+55 11 9####-####", "+55119########"),
        ("11 9########", "119########"),
    ),
    "ja_JP": (
        ("090-n###-####", "03-n###-####", "0120-n##-###", "+81 90-n###-####", "+81 3 n### ####", "080-n###-####"),
        ("090n#######",),
    ),
}


def phone(formats: tuple[str, ...]) -> Make:
    """Telephone numbers in these formats."""

    def make(random: Random) -> str:
        choices = {"N": "23456789", "n": "123456789", "#": "0123456789"}
        while True:
            pattern = random.choice(formats)
            text = "".join(random.choice(choices.get(c, c)) for c in pattern)
            # Neither area nor exchange of the North American plan ends in 11.
            if not any(c == "N" and text[at + 1 : at + 3] == "11" for at, c in enumerate(pattern)):
                return text

    return make


@dataclass(frozen=True)
class Kind:
    """A kind as the table of figures shows it: what the detector calls it, and who speaks of it how.

    `label` stands before it where the number alone does not tell what it is.
    """

    name: str
    group: str
    make: Make
    label: str = ""
    locale: str = ""


KINDS: tuple[Kind, ...] = (
    Kind("email", "email", personal.email),
    *(Kind(f"phone {locale}", "phone", phone(strong), "", locale) for locale, (strong, _) in PHONES.items()),
    *(Kind(f"phone {locale}, bare", "phone", phone(weak), "*", locale) for locale, (_, weak) in PHONES.items()),
    Kind("card visa", "card", personal.card(("4",), 16)),
    Kind("card mastercard", "card", personal.card(("51", "52", "53", "54", "55", "2221", "2720", "25"), 16)),
    Kind("card amex", "card", personal.card(("34", "37"), 15)),
    Kind("card other", "card", personal.card(("6011", "65", "3530", "62", "2202", "6759"), 16)),
    Kind("iban", "iban", personal.iban),
    Kind("us ssn", "ssn", personal.ssn),
    Kind("es dni", "national_id", personal.es_dni),
    Kind("es nie", "national_id", personal.es_nie),
    Kind("gb nino", "national_id", personal.gb_nino),
    Kind("gb nhs", "national_id", personal.gb_nhs, "NHS number"),
    Kind("fr nir", "national_id", personal.fr_nir),
    Kind("de idnr", "national_id", personal.de_idnr),
    Kind("nl bsn", "national_id", personal.nl_bsn, "BSN"),
    Kind("pl pesel", "national_id", personal.pl_pesel),
    Kind("br cpf", "national_id", personal.br_cpf),
    Kind("it codice fiscale", "national_id", personal.it_cf),
    Kind("se personnummer", "national_id", personal.se_pnr),
    Kind("fi hetu", "national_id", personal.fi_hetu),
    Kind("no fødselsnummer", "national_id", personal.no_fnr),
    Kind("be nn", "national_id", personal.be_nn),
    Kind("ch ahv", "national_id", personal.ch_ahv),
    Kind("cn resident id", "national_id", personal.cn_ric),
    Kind("kr rrn", "national_id", personal.kr_rrn),
    Kind("in aadhaar", "national_id", personal.in_aadhaar, "Aadhaar"),
    Kind("in pan", "national_id", personal.in_pan),
    Kind("ca sin", "national_id", personal.ca_sin, "SIN"),
    Kind("jp my number", "national_id", personal.jp_number, "マイナンバー"),
    Kind("tr kimlik", "national_id", personal.tr_kimlik, "T.C. Kimlik No"),
    Kind("za id", "national_id", personal.za_id),
    Kind("ipv4", "ip", personal.ipv4),
    Kind("ipv6", "ip", personal.ipv6),
    Kind("our key", "secret", prefixed("smr_", LETTERS, 43)),
    Kind("openai key", "secret", prefixed("sk-proj-", BASE64URL, 48)),
    Kind("anthropic key", "secret", prefixed("sk-ant-api03-", BASE64URL, 80)),
    Kind("aws key id", "secret", prefixed("AKIA", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16)),
    Kind("aws secret", "secret", personal.aws_secret, "aws_secret_access_key = "),
    Kind("google key", "secret", prefixed("AIza", BASE64URL, 35)),
    Kind("github token", "secret", prefixed("ghp_", LETTERS, 36)),
    Kind("gitlab token", "secret", prefixed("glpat-", BASE64URL, 20)),
    Kind("slack token", "secret", prefixed("xoxb-", LETTERS + "-", 48)),
    Kind("stripe key", "secret", prefixed("sk_live_", LETTERS, 24)),
    Kind("npm token", "secret", prefixed("npm_", LETTERS, 36)),
    Kind("jwt", "secret", personal.jwt),
    Kind("private key", "secret", personal.private_key),
    Kind("connection string", "secret", personal.connection),
    Kind("bearer token", "secret", prefixed("", LETTERS + "-_", 40), "Authorization: Bearer "),
    Kind("password", "secret", personal.password, "password="),
)

# By locale: what is said of each family, of an order, and of nothing in particular. `{}` is the value.
_SAID: dict[str, dict[str, tuple[str, ...]]] = {
    "en_US": {
        "email": ("Please write to {} about it.", "My email is {}.", "Forwarded by {}, see below."),
        "phone": ("Call me at {} after lunch.", "Her phone number is {}.", "Reach us by phone: {}."),
        "bare": ("You can reach me under {} today.", "Contact {} for details.", "She left {} with the desk."),
        "card": ("Charge it to {}, please.", "The card number was {}."),
        "iban": ("Transfer the rent to {}.", "My account is {}."),
        "id": ("It was issued as {}.", "The form says {} on page two."),
        "ip": ("The request came from {}.", "We blocked {} last night."),
        "secret": ("I pasted {} into the chat by mistake.", "Use {} until Friday."),
        "order": ("Order {} has shipped.", "See ticket {}.", "The build {} failed again."),
        "filler": ("The meeting went well and nobody had questions.", "Summarise the report in three sentences."),
    },
    "en_GB": {
        "email": ("Drop a line to {} when you can.", "The invoice went to {}."),
        "phone": ("Ring me on {} tomorrow.", "Our telephone number is {}.", "Mobile {}, evenings only."),
        "bare": ("We are at {} during office hours.", "Try {} first."),
        "card": ("She paid with {}.", "Card no. {} was declined."),
        "iban": ("Please pay into {}.", "The IBAN is {}."),
        "id": ("The applicant gave {} as hers.", "Recorded as {}."),
        "ip": ("The login was from {}.", "Traffic to {} is dropped."),
        "secret": ("The old credential {} still works.", "Someone committed {} yesterday."),
        "order": ("Parcel {} is at the depot.", "Your reference is {}."),
        "filler": ("The weather in Leeds was dreadful all week.", "Could you rewrite this in plain English?"),
    },
    "de_DE": {
        "email": ("Bitte schreiben Sie an {} wegen der Rechnung.", "Meine Adresse lautet {}."),
        "phone": ("Sie erreichen mich telefonisch unter {}.", "Tel. {}, ab 9 Uhr.", "Meine Handynummer ist {}."),
        "bare": ("Erreichbar unter {} bis zum Abend.", "Rückfragen an {} bitte."),
        "card": ("Bitte belasten Sie {}.", "Die Kartennummer war {}."),
        "iban": ("Überweisen Sie die Miete auf {}.", "Unser Konto ist {}."),
        "id": ("Im Antrag steht {} als Nummer.", "Geführt unter {}."),
        "ip": ("Der Zugriff kam von {}.", "Die Adresse {} ist gesperrt."),
        "secret": ("Versehentlich steht {} im Protokoll.", "Der Schlüssel {} ist noch gültig."),
        "order": ("Die Bestellung {} ist unterwegs.", "Vorgang {} wurde geschlossen."),
        "filler": ("Die Straße wird für größere Züge gesperrt.", "Fasse den Bericht in drei Sätzen zusammen."),
    },
    "fr_FR": {
        "email": ("Écrivez à {} pour la facture.", "Son adresse est {}."),
        "phone": ("Appelez-moi au {} demain.", "Tél. : {}", "Mon téléphone portable : {}."),
        "bare": ("Joignable au {} le matin.", "Contactez le {} en cas de souci."),
        "card": ("Débitez la carte {}.", "Le numéro de carte était {}."),
        "iban": ("Virez le loyer sur {}.", "Notre compte est {}."),
        "id": ("Le dossier indique {}.", "Enregistrée sous {}."),
        "ip": ("La requête venait de {}.", "L'adresse {} est bloquée."),
        "secret": ("J'ai collé {} par erreur.", "La clé {} est encore valable."),
        "order": ("La commande {} est partie.", "Voir le dossier {}."),
        "filler": (
            "L'été dernier, la forêt était fermée à cause des incendies.",
            "Résume ce texte : il est très long !",
        ),
    },
    "es_ES": {
        "email": ("Escriba a {} por la factura.", "Mi correo es {}."),
        "phone": ("Llámame al {} mañana.", "Mi teléfono es {}.", "Móvil: {}"),
        "bare": ("Estamos en el {} hasta las seis.", "Contacte con el {}."),
        "card": ("Cargue la tarjeta {}.", "El número de tarjeta era {}."),
        "iban": ("Transfiera el alquiler a {}.", "La cuenta es {}."),
        "id": ("En el formulario figura {}.", "Registrado como {}."),
        "ip": ("La petición llegó de {}.", "Bloqueamos {} anoche."),
        "secret": ("Pegué {} por error.", "La clave {} sigue activa."),
        "order": ("El pedido {} ha salido.", "Véase el expediente {}."),
        "filler": ("El año pasado llovió más que nunca en la región.", "Resume el informe en tres frases."),
    },
    "it_IT": {
        "email": ("Scriva a {} per la fattura.", "La mia mail è {}."),
        "phone": ("Chiama il numero di cellulare {} domani.", "Telefono: {}", "Tel. {} (ufficio)."),
        "bare": ("Siamo al {} fino alle sei.", "Rivolgersi allo {} per urgenze."),
        "card": ("Addebitate la carta {}.", "Il numero della carta era {}."),
        "iban": ("Versi l'affitto su {}.", "Il conto è {}."),
        "id": ("Nel modulo risulta {}.", "Registrato come {}."),
        "ip": ("La richiesta veniva da {}.", "Abbiamo bloccato {} ieri."),
        "secret": ("Ho incollato {} per sbaglio.", "La chiave {} è ancora valida."),
        "order": ("L'ordine {} è partito.", "Vedi la pratica {}."),
        "filler": (
            "La città era piena di turisti già a maggio.",
            "Riassumi il documento in tre frasi, perché è lungo.",
        ),
    },
    "nl_NL": {
        "email": ("Schrijf naar {} over de rekening.", "Mijn adres is {}."),
        "phone": ("Bel mij op {} morgen.", "Telefoon: {}", "Mijn mobiel is {}."),
        "bare": ("Wij zijn bereikbaar op {} tot vijf uur.", "Vragen? {} helpt."),
        "card": ("Boek het af van {}.", "Het kaartnummer was {}."),
        "iban": ("Maak de huur over naar {}.", "Onze rekening is {}."),
        "id": ("Op het formulier staat {}.", "Geregistreerd als {}."),
        "ip": ("Het verzoek kwam van {}.", "We blokkeerden {} vannacht."),
        "secret": ("Ik plakte per ongeluk {} in de chat.", "De sleutel {} werkt nog."),
        "order": ("Bestelling {} is onderweg.", "Zie dossier {}."),
        "filler": ("De vergadering duurde tot laat in de avond.", "Vat het rapport samen in drie zinnen."),
    },
    "pl_PL": {
        "email": ("Proszę pisać na {} w sprawie faktury.", "Mój adres to {}."),
        "phone": ("Zadzwoń pod numer {} jutro.", "Telefon: {}", "Tel. kom. {} po 17."),
        "bare": ("Jesteśmy pod {} do szóstej.", "Kontakt: {} w godzinach pracy."),
        "card": ("Proszę obciążyć kartę {}.", "Numer karty to {}."),
        "iban": ("Czynsz proszę przelać na {}.", "Nasze konto to {}."),
        "id": ("W formularzu widnieje {}.", "Zapisano jako {}."),
        "ip": ("Żądanie przyszło z {}.", "Zablokowaliśmy {} w nocy."),
        "secret": ("Przez pomyłkę wkleiłem {}.", "Klucz {} nadal działa."),
        "order": ("Zamówienie {} jest w drodze.", "Patrz sprawa {}."),
        "filler": ("Zebranie trwało długo i nikt nie miał pytań.", "Streść raport w trzech zdaniach."),
    },
    "pt_BR": {
        "email": ("Escreva para {} sobre a fatura.", "Meu e-mail é {}."),
        "phone": ("Ligue para o celular {} amanhã.", "Telefone: {}", "Meu celular é {}."),
        "bare": ("Estamos no {} até as seis.", "Fale com {} em caso de urgência."),
        "card": ("Cobre no cartão {}.", "O número do cartão era {}."),
        "iban": ("Transfira o aluguel para {}.", "A conta é {}."),
        "id": ("No formulário consta {}.", "Registrado como {}."),
        "ip": ("A requisição veio de {}.", "Bloqueamos {} ontem."),
        "secret": ("Colei {} por engano.", "A chave {} ainda funciona."),
        "order": ("O pedido {} saiu.", "Veja o processo {}."),
        "filler": ("A reunião foi boa e ninguém tinha dúvidas.", "Resuma o relatório em três frases."),
    },
    "ja_JP": {
        "email": ("請求書については{}までご連絡ください。", "メールは {} です。"),
        "phone": ("電話番号は{}です。", "携帯 {} までお願いします。", "電話:{}"),
        "bare": ("お問い合わせは{}まで。", "受付は {} です。"),
        "card": ("カード番号は{}でした。", "カード {} で支払いました。"),
        "iban": ("家賃は {} に振り込んでください。", "口座は{}です。"),
        "id": ("申請書には {} とあります。", "番号は{}です。"),
        "ip": ("リクエストは{}から来ました。", "{} を遮断しました。"),
        "secret": ("誤って {} を貼り付けました。", "鍵は {} です。"),
        "order": ("注文 {} を発送しました。", "案件{}を参照。"),
        "filler": ("会議は順調に終わり、質問はありませんでした。", "報告書を三文で要約してください。"),
    },
}

_KEYS = {
    "email": ("email", "contact.mail", "userEmail"),
    "phone": ("phone", "mobile_phone", "phoneNumber", "tel"),
    "bare": ("contact", "reach"),
    "card": ("card", "pan", "number"),
    "iban": ("iban", "account"),
    "id": ("id", "document", "holder"),
    "ip": ("client_ip", "peer", "addr"),
    "secret": ("value", "header", "used"),
}


@dataclass
class Sample:
    """A text, and where in it something of a kind stands."""

    name: str
    text: str = ""
    values: list[tuple[Kind, int, int]] = field(default_factory=list)

    def write(self, text: str) -> None:
        """Add what is nobody's."""
        self.text += text

    def put(self, kind: Kind, value: str) -> None:
        """Add a value."""
        self.values.append((kind, len(self.text), len(self.text) + len(value)))
        self.text += value


def family(kind: Kind) -> str:
    """The templates that speak of a kind; a phone number without a word before it is another matter."""
    if kind.group == "phone":
        return "phone" if kind.label else "bare"
    return {"ssn": "id", "national_id": "id"}.get(kind.group, kind.group)


def samples(seed: int, count: int) -> Iterator[Sample]:
    """`count` samples; each kind comes equally often, in each class and with texts of each locale."""
    random = Random(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        locale = kind.locale or random.choice(LOCALES)
        yield _WRITERS[random.choice(CLASSES)](random, kind, locale)


def _fill(sample: Sample, template: str, kind: Kind, random: Random, *, escaped: bool = False) -> None:
    before, after = template.split("{}")
    label = "" if kind.label in ("", "*") else kind.label
    if label and label[-1] not in "= ":
        label += random.choice((" ", ": "))
    sample.write(before + label)
    value = kind.make(random)
    sample.put(kind, json.dumps(value)[1:-1] if escaped else value)
    # What stands directly behind a secret belongs to it.
    sample.write((" " if kind.group == "secret" and after[:1] not in ('"', " ", "") else "") + after)


def _prose(random: Random, kind: Kind, locale: str) -> Sample:
    said = _SAID[locale]
    sample = Sample("prose")
    templates = said["phone"] if kind.group == "phone" and random.random() < 0.5 else said[family(kind)]
    sentences: list[tuple[str, Kind | None]] = [(random.choice(templates), kind)]
    sentences += [(random.choice(said["order"]), None) for _ in range(random.randrange(1, 4))]
    sentences += [(random.choice(said["filler"]), None) for _ in range(random.randrange(1, 3))]
    random.shuffle(sentences)
    for template, what in sentences:
        if what is not None:
            _fill(sample, template, what, random)
        elif "{}" in template:
            sample.write(template.replace("{}", negative(random)))
        else:
            sample.write(template)
        sample.write(random.choice((" ", " ", "\n")))
    return sample


def _json(random: Random, kind: Kind, locale: str) -> Sample:
    sample = Sample("json")
    sample.write(f'{{"id": "{uuid.UUID(int=random.getrandbits(128))}", "order": "{_plain(random)}", "customer": {{')
    key = random.choice(_KEYS["phone" if kind.group == "phone" and kind.label else family(kind)])
    _fill(sample, f'"{key}": "{{}}"', kind, random, escaped=True)
    text = json.dumps(random.choice(_SAID[locale]["filler"]), ensure_ascii=random.random() < 0.5)
    sample.write(f'}}, "created": {random.randrange(1_600_000_000, 1_800_000_000)}, "note": {text}, ')
    sample.write(f'"ref": "{_plain(random)}", "total": {random.randrange(10**7) / 100}}}')
    return sample


def _code(random: Random, kind: Kind, _: str) -> Sample:
    sample = Sample("code")
    sample.write(
        f"import os\n\n# {_plain(random)}\ndef load(path: str, retries: int = {random.randrange(10)}) -> None:\n"
    )
    key = random.choice(_KEYS[family(kind)])
    _fill(sample, f'    {key.replace(".", "_")} = "{{}}"\n', kind, random, escaped=True)
    sample.write(f'    digest = "{drawn(random, HEX, random.choice((32, 40, 64)))}"  # {_plain(random)}\n')
    sample.write(f"    return parse(path, key, max_tokens={random.randrange(10**4)}, ref='{_plain(random)}')\n")
    return sample


def _log(random: Random, kind: Kind, _: str) -> Sample:
    sample = Sample("log")
    for _line in range(random.randrange(1, 3)):
        sample.write(f"{_when(random).isoformat(timespec='milliseconds')}Z INFO  req_{drawn(random, HEX, 16)} ")
        sample.write(f"GET /v1/items/{random.randrange(10**6)} 200 {random.randrange(10**4)}ms ref={_plain(random)}\n")
    sample.write(f"{_when(random):%Y-%m-%d %H:%M:%S},{random.randrange(1000):03} WARN [worker-{random.randrange(9)}] ")
    key = random.choice(_KEYS[family(kind)])
    _fill(
        sample, random.choice((f"{key}={{}} failed\n", f'rejected: {key}="{{}}" code=17\n')), kind, random, escaped=True
    )
    sample.write(f"{_when(random).isoformat()} DEBUG trace={drawn(random, HEX, 32)} span={drawn(random, HEX, 16)}\n")
    return sample


def _table(random: Random, kind: Kind, locale: str) -> Sample:
    sample = Sample("table")
    key = random.choice(_KEYS[family(kind)])
    sep = random.choice((";", "\t", ","))
    sample.write(sep.join(("row", "order", key, "sku")) + "\n")
    row = f"{random.randrange(1000)}{sep}{_plain(random)}{sep}"
    if kind.label:
        row += f"{_SAID[locale]['phone'][1].split('{}')[0].strip()} " if kind.label == "*" else ""
    _fill(sample, row + "{}" + sep, kind, random, escaped=True)
    sample.write(f"SKU-{random.randrange(10**6):06}\n{random.randrange(1000)}{sep}{_plain(random)}{sep}{sep}-\n")
    return sample


_WRITERS: dict[str, Callable[[Random, Kind, str], Sample]] = {
    "prose": _prose,
    "json": _json,
    "code": _code,
    "log": _log,
    "table": _table,
}


def _when(random: Random) -> datetime:
    return datetime(2024, 1, 1, tzinfo=UTC).replace(tzinfo=None) + timedelta(seconds=random.randrange(10**8))


def _not_luhn(random: Random, length: int) -> str:
    body = random.choice("123456789") + digits(random, length - 2)
    return body + str((int(personal.luhn_digit(body)) + random.randrange(1, 10)) % 10)


def _bad_iban(random: Random) -> str:
    good = "DE" + str(random.randrange(10, 99)) + digits(random, 18)
    number = int("".join(str(int(c, 36)) for c in good[4:] + good[:4]))
    return good if number % 97 != 1 else good[:-1] + str((int(good[-1]) + 1) % 10)


def _isbn(random: Random) -> str:
    body = f"978{digits(random, 9)}"
    total = sum(int(d) * (3 if place % 2 else 1) for place, d in enumerate(body))
    return grouped(f"{body}{-total % 10}", 3, 1, 2, 6, 1, sep="-")


_PLAIN: tuple[Make, ...] = (
    lambda r: f"PO-{r.randrange(2020, 2027)}-{r.randrange(10**5):05}",
    lambda r: f"{r.randrange(10**7, 10**8)}",
    lambda r: f"{r.randrange(10**9, 10**10)}",
    lambda r: f"{r.randrange(10**10, 10**11)}",
    lambda r: f"{r.randrange(10**11, 10**12)}",
    lambda r: _not_luhn(r, 16),
    lambda r: _not_luhn(r, 14),
    _bad_iban,
    _isbn,
    lambda r: f"40{digits(r, 11)}",  # an EAN
    lambda r: f"{r.choice(('000', '666', '987'))}-{r.randrange(10, 99)}-{r.randrange(1000, 9999)}",
    lambda r: f"{r.randrange(256, 1000)}.{r.randrange(256, 999)}.{r.randrange(300)}.{r.randrange(300)}",
    lambda r: f"v{r.randrange(9)}.{r.randrange(20)}.{r.randrange(99)}.{r.randrange(9)}",
    lambda r: f"{r.randrange(9)}.{r.randrange(20)}.{r.randrange(99)}",
    lambda r: f"Chrome/{r.randrange(90, 140)}.0.{r.randrange(4000, 7000)}.{r.randrange(200)}",
    lambda r: f"{r.randrange(100, 999)}-{r.randrange(1000, 9999)}",
    lambda r: f"{r.randrange(10**3, 10**4)}-{r.randrange(10**3, 10**4)}-{r.randrange(10, 99)}",
    lambda r: str(uuid.UUID(int=r.getrandbits(128))),
    lambda r: drawn(r, HEX, 40),
    lambda r: drawn(r, HEX, 64),
    lambda r: drawn(r, HEX, 12),
    lambda r: f"0x{drawn(r, HEX, 12)}",
    lambda r: str(r.randrange(1_500_000_000, 1_900_000_000)),
    lambda r: str(r.randrange(1_500_000_000_000, 1_900_000_000_000)),
    lambda r: str(r.randrange(1_500_000_000_000_000_000, 1_900_000_000_000_000_000)),
    lambda r: _when(r).isoformat() + "Z",
    lambda r: f"{_when(r):%Y-%m-%d %H:%M:%S}",
    lambda r: f"{_when(r):%d.%m.%Y %H:%M}",
    lambda r: f"1Z{drawn(r, 'ABCDEFGH0123456789', 16)}",
    lambda r: ":".join(drawn(r, HEX, 6)[at : at + 2] for at in (0, 1, 2, 3, 4, 2)),
    lambda r: f"10.{r.randrange(1000, 9999)}/{drawn(r, HEX, 8)}",
    lambda r: f"arXiv:{r.randrange(1501, 2612)}.{r.randrange(10**4, 10**5)}",
    lambda r: f"{r.randrange(900, 4000)}x{r.randrange(600, 3000)}",
    lambda r: f"{r.uniform(-90, 90):.6f}",
    lambda r: f"{r.uniform(0, 10):.15f}",
    lambda r: f"SN-{r.randrange(10**7, 10**8)}-{r.randrange(10**3, 10**4)}",
)
# These hold quotes, spaces or brackets, and stand in prose only.
_WORDY: tuple[Make, ...] = (
    lambda r: f"{r.randrange(1, 999)},{r.randrange(100, 999)},{r.randrange(100, 999)}.{r.randrange(10, 99)}",
    lambda r: f"{r.randrange(1, 999)} {r.randrange(100, 999)} {r.randrange(100, 999)} Bytes",
    lambda r: base64.b64encode(r.randbytes(30)).decode(),
    lambda r: "eyJpZCI6" + base64.b64encode(r.randbytes(12)).decode(),  # a cursor
    lambda r: r.choice(("@app.route('/x1')", "logo@2x.png", "root@localhost", "left-pad@1.3.0", "std::vector<int>")),
    lambda r: r.choice(("password: string", "max_tokens: 4096", "token = next(tokens)", "api_key: str | None = None")),
    lambda r: r.choice(("sk-circle-fade-dot-animation", "task-4711-flow", "secretary2", "https://example.com/a?b=1")),
    lambda r: f"{r.randrange(10):02}:00-{r.randrange(10, 20)}:30",
    lambda r: " ".join(f"{r.randrange(256):02x}" for _ in range(16)),
    lambda r: f"{r.uniform(-90, 90):.4f}, {r.uniform(-180, 180):.4f}",
    lambda r: f"RFC {r.randrange(1000, 9999)} and ISO {r.randrange(1000, 30000)}-{r.randrange(1, 9)}:2022",
    lambda r: f"{r.randrange(1, 40)} / {r.randrange(40, 99)} ({r.randrange(10, 99)} %)",
)


def _plain(random: Random) -> str:
    return random.choice(_PLAIN)(random)


def negative(random: Random) -> str:
    """Something that is no personal datum, however it looks."""
    return random.choice(_WORDY if random.random() < 0.4 else _PLAIN)(random)


def ordinary(random: Random, name: str, locale: str, size: int) -> str:
    """A text of a class as it mostly is: without personal data, with a number now and then."""
    said = _SAID[locale]
    parts: list[str] = []
    while sum(map(len, parts)) < size:
        if name == "json":
            item = {"id": random.randrange(10**6), "ref": _plain(random), "text": random.choice(said["filler"])}
            parts.append(json.dumps(item, ensure_ascii=False) + ",\n")
        elif name == "log":
            when = _when(random).isoformat(timespec="milliseconds")
            parts.append(f"{when}Z INFO req_{drawn(random, HEX, 16)} POST /v1/items/{random.randrange(10**6)} 200 ")
            parts.append(f"{random.randrange(10**4)}ms upstream=first model=gpt-4.1 policy={drawn(random, HEX, 12)}\n")
        else:
            parts.append(random.choice(said["filler"]) + " ")
            if random.random() < 0.2:
                parts.append(random.choice(said["order"]).replace("{}", _plain(random)) + " ")
    return "".join(parts)
