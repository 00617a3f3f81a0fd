"""The secrets of an address in what its server writes back: as they are, and as URLs, JSON, base64 and hexadecimal
digits write them."""

import base64
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, unquote, urlsplit

from trueline.errors import HIDDEN, is_secret

LEAST = 4  #: characters of a secret; shorter ones cannot be told from ordinary words
LEAST_OTHER = 8  #: characters of a value in a query whose name does not say that it is a secret
LEAST_CODED = 6  #: characters of its coded forms


def secrets_of(address: str, key: str = "") -> list[str]:
    """What of an address and its key nobody else may see: the key, the password (the user, where there is none), both
    as basic authentication joins them, and the values of the query."""
    parts = urlsplit(address)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    found = [key, password or user, f"{user}:{password}" if password else ""]
    for name, value in parse_qsl(parts.query):
        found.append(value if is_secret(name) or len(value) >= LEAST_OTHER else "")
    return [secret for secret in dict.fromkeys(found) if len(secret) >= LEAST]


class Mask:
    """Puts "***" in the place of secrets: ``Mask(["sk-123"])("my key is sk-123")``."""

    def __init__(self, secrets: Iterable[str]):
        forms = [form for secret in sorted(secrets, key=len, reverse=True) for form in _forms(secret)]
        self._pattern = re.compile("|".join(forms), re.IGNORECASE) if forms else None

    def __call__(self, text: str) -> str:
        return self._pattern.sub(HIDDEN, text) if self._pattern else text


def _forms(secret: str) -> list[str]:
    """Patterns of what may stand for the secret."""
    raw = secret.encode()
    forms = ["".join(map(_letter, secret))]
    coded = [_base64(raw, before) for before in range(3)]
    forms += [_either(text) for text in coded if len(text) >= LEAST_CODED]
    return [*forms, raw.hex()]


def _letter(letter: str) -> str:
    """One character, plain or escaped; JSON within JSON escapes the escapes."""
    of_url = "".join(f"%{byte:02x}" for byte in letter.encode())
    ways = [
        re.escape(letter),
        of_url,
        rf"\\{{1,4}}(?:u{ord(letter):04x}|x{ord(letter):02x})",
        f"&#{ord(letter)};",
    ]
    return f"(?:{'|'.join([*ways, *([re.escape('+')] if letter == ' ' else [])])})"


def _base64(secret: bytes, before: int) -> str:
    """Its characters in the base64 of a longer text, where it begins ``before`` bytes after a multiple of three:
    those that no neighbour has a bit in."""
    text = base64.b64encode(bytes(before) + secret).decode()
    return text[(8 * before + 5) // 6 : 8 * (before + len(secret)) // 6]


def _either(text: str) -> str:
    """In both alphabets of base64."""
    return "".join({"+": "[+-]", "/": "[/_]"}.get(letter, letter) for letter in text)
