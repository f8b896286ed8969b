"""Columns that look like personal data, by their names and by what is in them; a person decides."""

from __future__ import annotations

import re
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

Tag = Literal["direct", "quasi"]

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_DIRECT = re.compile(  # whole words of a name, or all of it
    "email|mail|phone|mobile|cellphone|telephone|fax|iban|bic|vin|ssn|passport|surname|lastname|firstname|fullname|"
    "forename|nickname|username|driver|passenger|patient|cardholder|street|address|addr|licenseplate|licenceplate|"
    "numberplate|imei|imsi|msisdn|ip|ipaddress|taxid|nationalid|cardpan|pan(no|num|nr|number)|cvv|cvc|cvv2|cvc2|"
    "(credit|debit|payment|bank)?(card|cc)(no|num|nr|number)|(bank)?(account|acct)(no|num|nr|number)"
)
_QUASI = re.compile(
    "birth|birthday|birthdate|dob|gender|sex|zip|zipcode|postal|postcode|plz|lat|latitude|lon|lng|longitude|gps|"
    "nationality|ethnicity|religion"
)
_PERSON = re.compile("first|last|middle|full|given|family|customer|client|user|person|owner|employee|contact")
_VALUES = (
    r"^[^@\s]+@[^@\s]+\.[A-Za-z]{2,}$",  # mail
    r"^[A-Z]{2}\d{2}[A-Z0-9]{11,30}$",  # IBAN
    r"^\+\d[\d ()/-]{6,18}$",  # telephone, with a country's code
    r"^(\d{1,3}\.){3}\d{1,3}$",  # IPv4
    r"^\d{3}-\d{2}-\d{4}$",  # social security number of the United States
)
_CARD = r"^\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{1,7}$|^3\d{3}[ -]?\d{6}[ -]?\d{5}$"
_MOST = 0.5  # of the values: more than a few look like it
_LOOKED_AT = 10_000  # values of a column


def looks_personal(name: str, values: pa.ChunkedArray | pa.Array | None = None) -> Tag | None:
    """What a column may be: "direct" identifies a person, "quasi" does so together with other data; None: neither.

    Args:
      values: of the column; None: they are not known.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    if any(map(_DIRECT.fullmatch, [*words, "".join(words)])):
        return "direct"
    if words == ["name"] or ("name" in words and any(map(_PERSON.fullmatch, words))):
        return "direct"
    if any(map(_QUASI.fullmatch, [*words, "".join(words)])):
        return "quasi"
    if values is None or not (pa.types.is_string(values.type) or pa.types.is_integer(values.type)):
        return None
    known = values.drop_null().slice(0, _LOOKED_AT).cast(pa.string())
    if not len(known):
        return None
    alike = max(pc.sum(pc.match_substring_regex(known, pattern)).as_py() for pattern in _VALUES)
    return "direct" if max(alike, _cards(known)) > _MOST * len(known) else None


def _cards(texts: pa.ChunkedArray | pa.Array) -> int:
    """How many are numbers of payment cards: as long, and with the check digit, which of other numbers 1 in 10 has."""
    likely = texts.filter(pc.match_substring_regex(texts, _CARD))
    return sum(_luhn(re.sub("[ -]", "", text)) for text in likely.to_pylist())


def _luhn(digits: str) -> bool:
    """Whether the last digit is that of Luhn's formula."""
    doubled = [2 * int(digit) if i % 2 else int(digit) for i, digit in enumerate(reversed(digits))]
    return sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0
