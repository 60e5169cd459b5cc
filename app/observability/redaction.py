"""What must never be written down, and how it is taken out of a text: secrets of the settings, and what looks like one.

The settings' own secrets are known letter by letter. Others (a wallet's words, someone else's token in an address, a
request's headers in a library's error) are known by where they stand.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from app.settings import Settings, SettingsError, get_settings

MARK: Final = "***"

# A secret this short would black out ordinary words; the patterns below still find it where it stands.
_SHORTEST: Final = 4
_SHORTEST_PART: Final = 6

_ENVIRONMENT: Final = re.compile(r"(PASSWORD|PASSPHRASE|MNEMONIC|SECRET|TOKEN|API_KEY|_PW)(_|$)|^BT_PW", re.IGNORECASE)

# Between a name and its value, in headers, JSON, a dict's repr, keyword arguments and assignments.
_IS: Final = r"""(?:['"]\s*,|['"]?\s*(?:[:=]|=>))\s*(?:b(?=['"]))?"""
_QUOTED: Final = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""

_PATTERNS: Final = (
    # redis://:password@host, postgresql://user:password@host, https://token@host
    # (bounded and anchored, like all of these: a long word must not cost its square)
    (
        r"((?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,30}://[^\s:/?#@'\"]{0,200}):(?!\d{1,5}/)[^\s'\"]{0,300}@",
        rf"\1:{MARK}@",
    ),
    (r"(https?://)[^\s:/?#@'\"]+@", rf"\1{MARK}@"),
    (
        r"([?&;](?:password|passwd|token|key|api_?key|access_token|secret|sig|signature|auth)=)[^\s&;#'\"]+",
        rf"\1{MARK}",
    ),
    # Authorization: Bearer …, ('X-Signature', '…'); the scheme is no secret
    (
        rf"\b((?:proxy-)?authorization|x-signature|x-api-key|x-auth-token|set-cookie|cookie)({_IS})"
        rf"(?:{_QUOTED}|(?:(?:bearer|basic|token|digest|negotiate)\s+)?[^\s,;'\"}})\]]+)",
        rf"\1\2{MARK}",
    ),
    (r"\b(bearer|token)\s+(?=[^\s'\"]*\d)[a-z0-9._~+/=-]{8,}", rf"\1 {MARK}"),
    (r"\b(basic)\s+(?=\S*(?-i:[A-Z0-9=]))[a-z0-9+/]{8,}={0,2}", rf"\1 {MARK}"),
    # password=…, "secretPhrase": "…", mnemonic: twelve or more words
    (
        rf"\b(mnemonic|secret_?phrase|seed[_ ]?(?:phrase|words))({_IS}|\s+)"
        rf"(?:{_QUOTED}|(?:[a-z]+[\s,]+){{5,}}[a-z]+)",
        rf"\1\2{MARK}",
    ),
    (
        r"\b(\w*(?:password|passwd|passphrase|secret_?phrase|secret_?seed|secret_?key|private_?key|client_?secret"
        rf"|api_?key|access_?token|auth_?token))({_IS})(?:{_QUOTED}|[^\s,;'\"}})\]]+)",
        rf"\1\2{MARK}",
    ),
    # tokens with a face of their own: GitHub, Hugging Face, OpenAI
    (r"\b(?:gh[pousr]_|github_pat_|hf_|sk-)[A-Za-z0-9_-]{16,}", MARK),
)


class Redaction:
    """Takes secrets out of texts. ``secrets`` are found letter by letter, also as they stand in JSON and in URLs."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        longest_first = sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """The text without secrets."""
        if self._known is not None:
            text = self._known.sub(MARK, text)
        for pattern, replacement in _patterns():
            text = pattern.sub(replacement, text)
        return text


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    # compiled for the first text: most commands write no line
    return tuple((re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in _PATTERNS)


def secrets_of(settings: Settings, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Every secret that this process knows: the settings', the passwords inside them, and those of its environment."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr) and value.get_secret_value():
            yield from _with_parts(value.get_secret_value())
    for name, text in environment.items():
        if _ENVIRONMENT.search(name) and len(text) >= _SHORTEST_PART and not name.endswith("_FILE"):
            yield text


@lru_cache(maxsize=1)
def redaction() -> Redaction:
    """This process's redaction; where its settings cannot be read, by patterns alone."""
    try:
        return Redaction(secrets_of(get_settings()))
    except SettingsError:
        return Redaction()


def _with_parts(secret: str) -> Iterator[str]:
    if "://" in secret:
        # an address is shown, its password is not
        try:
            password = urlsplit(secret).password
        except ValueError:
            password = None
        parts = [password] if password else []
    elif ":" in secret:
        yield secret
        parts = [user.partition(":")[2] for user in secret.split(",")]
    else:
        yield secret
        parts = []
    yield from (part for part in parts if len(part) >= _SHORTEST_PART)


def _forms(secret: str) -> set[str]:
    plain = {secret, unquote(secret)}
    return plain | {form for text in plain for form in (json.dumps(text)[1:-1], repr(text)[1:-1], quote(text, safe=""))}
