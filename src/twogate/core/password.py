"""What a password may be (NIST SP 800-63B section 3.1.1): long, of any characters, and not one that everybody tries."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MIN_PASSWORD: Final = 12
MAX_PASSWORD: Final = 128
"""Characters of a password, after normalization."""

_MAX_TYPED: Final = 4 * MAX_PASSWORD
_MIN_DISTINCT: Final = 5
_MIN_NAME: Final = 4

# Beginnings and middles of the passwords of twelve characters and more that lists of leaked ones hold most often.
# Compared after folding case and the usual substitutions.
_COMMON: Final = (
    "password", "passphrase", "qwertyuiop", "qwertzuiop", "azertyuiop", "asdfghjkl", "letmein", "iloveyou",
    "changeme", "changeit", "welcome", "administrator", "superman", "football", "baseball", "princess", "sunshine",
    "trustno", "abcdefgh", "qazwsx", "zxcvbnm", "secret", "twogate", "default", "whatever", "starwars", "computer",
)  # fmt: skip
_LEET: Final = str.maketrans("013457@$!", "oieastasi")
_ROW: Final = "01234567890123456789"
_MIN_REST: Final = 8


def normalize_password(typed: str) -> str:
    """The one spelling (NFKC) of a password that keyboards and systems may encode in several."""
    return unicodedata.normalize("NFKC", typed[:_MAX_TYPED])


def judge_password(typed: str, *names: str) -> str | None:
    """What is wrong with a new password, as a sentence for the person; None if it is good.

    `names` are what the person is called, which is tried first.
    """
    password = normalize_password(typed)
    if len(typed) > _MAX_TYPED or len(password) > MAX_PASSWORD:
        return f"The password may have at most {MAX_PASSWORD} characters."
    if len(password) < MIN_PASSWORD:
        return f"The password must have at least {MIN_PASSWORD} characters; several words do well."
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in password):
        return "The password holds a control character; type it instead of pasting it."
    if len(set(password)) < _MIN_DISTINCT or re.fullmatch(r"(.{1,6}?)\1+.{0,5}", password, re.DOTALL):
        return "The password repeats the same few characters; take one that is harder to guess."
    if _is_common(password):
        return "This password is one of those that are tried first; take one that is harder to guess."
    folded = password.casefold()
    if any(len(name) >= _MIN_NAME and name.casefold() in folded for name in names):
        return "The password holds your name; take one that is harder to guess."
    return None


def _is_common(password: str) -> bool:
    folded = password.casefold()
    digits = re.sub(r"[^0-9]", "", folded)
    if digits == folded and (digits in _ROW * 2 or digits in (_ROW * 2)[::-1]):
        return True
    plain = re.sub(r"[^a-z]", "", folded.translate(_LEET))
    # What is left once a common word is taken out is what there is to guess.
    return any(word in plain and len(password) - len(word) * plain.count(word) < _MIN_REST for word in _COMMON)
