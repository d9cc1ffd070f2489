"""The cookie: the secret that all members of a cluster share, from file or text to PSK.

Decides what counts as a cookie, how strong it is and what key it becomes.

- *Random*: 160 bits as 32 characters of base32 (`make_cookie`). One BLAKE2s makes the PSK; nobody
  guesses 160 bits. Upper case, spaces and dashes are accepted.
- *Chosen* by a person: anything else. Argon2id with a fixed salt makes the PSK (fixed, since all
  members must reach the same key without talking), so that who recorded a handshake and has a word
  list pays the whole price for each guess. In ``prod`` weak ones are refused; in ``dev``
  they are allowed, and derivation takes 8 MiB instead of 64, so a chosen cookie of a dev node never
  opens a prod cluster.

How a text of 32 base32 characters that a person chose is told from a random one: it must have
three digits, twelve different characters, no repetition and no run like ``abcd``; `make_cookie`
draws until that holds (19 of 20 times at once; it costs 0.08 bit). What fails is stretched like
any chosen one, which is slower and never weaker.

The file: mode 0600; one line, or two while rotating (the new cookie, then the old one); empty
lines and lines that start with ``#`` do not count; CRLF, a byte order mark and spaces at the end
are forgiven, since people write it on other systems.

Times: random 0.2 ms; chosen 80 ms (prod) and 4 ms (dev) on x86-64, many times that on a Pi:
plain functions, so call them in a thread, never on the event loop. Memory is given back at once.

Ideas rejected: a PAKE for chosen cookies (two more round trips for every stranger's guess; pairing
uses one); Argon2id for every text (a Pi Zero would need a second at each start for nothing).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from nacl import bindings

from drupelet.errors import ConfigError
from drupelet.store.secret_files import create_secret_file, read_secret_file

RANDOM_CHARS: Final = 32  # 160 bits in base32
RANDOM_DIGITS_MIN: Final = 3
RANDOM_DISTINCT_MIN: Final = 12  # 20 are usual, one in a million has fewer than 12
CHOSEN_CHARS_MIN: Final = 12  # in prod
CHOSEN_CHARS_MAX: Final = 256
DISTINCT_CHARS_MIN: Final = 6  # in prod, also of what is left without words, runs and digits
NUMBER_CHARS_MIN: Final = 20  # so many random digits (66 bits) or hex digits need no letters
NUMBER_DISTINCT_MIN: Final = 8
COOKIES_MAX: Final = 2  # the new one and the old one

_WHAT: Final = "the cookie"
_SALT: Final = hashlib.blake2b(b"drupelet cookie v1", digest_size=16).digest()
_PASSES: Final = {"prod": 3, "dev": 1}  # RFC 9106, section 4: t=3 with 64 MiB, the second choice
_MEMORY_BYTES: Final = {"prod": 64 * 1024 * 1024, "dev": 8 * 1024 * 1024}

_BASE32: Final = re.compile(r"[a-z2-7]{32}")
_DEMO_LINE: Final = "# The cookie of this cluster: all its nodes have the same one. Keep it secret."

# Words that word lists start with, and ours. What is left of a cookie without them must be
# something; four letters at least, since shorter ones occur in any text.
_COMMON_WORDS: Final = re.compile(
    "password|passwort|passwd|secret|geheim|cookie|drupelet|raspberry|raspbian|raspi|berry|"
    "changeme|default|letmein|welcome|admin|root|user|guest|master|monkey|dragon|sunshine|"
    "princess|football|baseball|iloveyou|login|test|demo|hello|cluster|gandalf|bilbo|frodo|"
    "erlang|correct|horse|battery|staple"
)
_LOOKALIKES: Final = str.maketrans("013457@$", "oieastas")  # "p4ssw0rd"
_RUNS: Final = (
    "abcdefghijklmnopqrstuvwxyz",
    "0123456789",
    "1234567890",
    "qwertyuiop",
    "qwertzuiop",
    "azertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "yxcvbnm",
)
_RUN_CHARS_MIN: Final = 4  # "1234", "qwer"

Environment = Literal["prod", "dev"]


@dataclass(frozen=True, slots=True)
class Cookie:
    """One cookie: its PSK (32 bytes, out of `repr`) and whether it was "random" or "chosen"."""

    psk: bytes = field(repr=False)
    kind: Literal["random", "chosen"]


def make_cookie() -> str:
    """A new random cookie: 32 characters of lowercase base32."""
    while True:
        text = base64.b32encode(secrets.token_bytes(20)).decode().lower()
        if _looks_random(text):
            return text


def psk_from_text(text: str, environment: str) -> bytes:
    """The PSK of a cookie. See the module for its time. Raises: `ConfigError`."""
    return cookie_from_text(text, environment).psk


def cookie_from_text(text: str, environment: str, *, file: str = "", line: int = 0) -> Cookie:
    """The cookie that `text` is. `file` and `line` are for the error message.

    Raises: `ConfigError` when it is empty, too long, or weak in prod.
    """
    dev = environment == "dev"
    compact = text.replace("-", "").replace(" ", "").strip().lower()
    if _looks_random(compact):
        raw = base64.b32decode(compact.upper())
        return Cookie(hashlib.blake2s(raw, person=b"drupcook").digest(), "random")
    chosen = unicodedata.normalize("NFC", text.strip())
    problem = _flaw(chosen) or ("" if dev else _weakness(chosen))
    if problem:
        raise ConfigError(
            f"{_WHAT} {problem}",
            mend=(
                "use a random one (remove the file, and the next start writes it) or a sentence "
                f"of several unusual words with at least {CHOSEN_CHARS_MIN} characters"
            ),
            file=file,
            line=line,
        )
    level = "dev" if dev else "prod"
    psk = bindings.crypto_pwhash_alg(
        32,
        chosen.encode(),
        _SALT,
        _PASSES[level],
        _MEMORY_BYTES[level],
        bindings.crypto_pwhash_ALG_ARGON2ID13,
    )
    return Cookie(psk, "chosen")


def load_cookie(path: Path, *, environment: str) -> tuple[Cookie, ...]:
    """The cookies of the file, newest first: one, or two while rotating.

    Raises: `ConfigError`, also when there is no file.
    """
    cookies = _load(path, environment)
    if cookies is None:
        raise ConfigError(
            "there is no cookie",
            mend="copy the file from another node of the cluster",
            file=str(path),
        )
    return cookies


def load_or_make_cookie(path: Path, *, environment: str) -> tuple[Cookie, ...]:
    """As `load_cookie`; a missing file is written with a new random cookie first."""
    cookies = _load(path, environment)
    if cookies is None:
        content = f"{_DEMO_LINE}\n{make_cookie()}\n".encode()
        create_secret_file(path, content, what=_WHAT)  # or another start was quicker
        cookies = load_cookie(path, environment=environment)
    return cookies


def _load(path: Path, environment: str) -> tuple[Cookie, ...] | None:
    content = read_secret_file(path, what=_WHAT)
    if content is None:
        return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(
            f"{_WHAT} is not UTF-8 text",
            mend="save it as UTF-8, without formatting",
            file=str(path),
        ) from None
    cookies: list[Cookie] = []
    for number, raw_line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = raw_line.strip()
        if not line or line.startswith("#"):
            continue
        if len(cookies) == COOKIES_MAX:
            raise ConfigError(
                f"more than {COOKIES_MAX} cookies",
                mend="keep the new one and, while other nodes still have it, the old one",
                file=str(path),
                line=number,
            )
        cookie = cookie_from_text(line, environment, file=str(path), line=number)
        if cookie not in cookies:
            cookies.append(cookie)
    if not cookies:
        raise ConfigError(
            f"{_WHAT} is empty",
            mend="write one line into it, or remove the file and the next start makes one",
            file=str(path),
        )
    return tuple(cookies)


def _flaw(text: str) -> str:
    """What is wrong with a chosen cookie in any environment, or ""."""
    if not text:
        return "is empty"
    if len(text) > CHOSEN_CHARS_MAX:
        return f"is longer than {CHOSEN_CHARS_MAX} characters"
    if not text.isprintable():
        return "contains control characters"
    return ""


def _weakness(text: str) -> str:
    """Why a chosen cookie is too easy to guess, or ""."""
    if len(text) < CHOSEN_CHARS_MIN:
        return f"has {len(text)} characters, which is weak: at least {CHOSEN_CHARS_MIN}"
    folded = text.casefold()
    if len(set(folded)) < DISTINCT_CHARS_MIN:
        return f"is weak: it has fewer than {DISTINCT_CHARS_MIN} different characters"
    if _repeats(folded):
        return "is weak: it repeats itself"
    for form in (folded, folded.translate(_LOOKALIKES)):
        left = "".join(_without_runs(_COMMON_WORDS.sub(" ", form)).split())
        distinct = set(left)
        if len(left) >= NUMBER_CHARS_MIN and len(distinct) >= NUMBER_DISTINCT_MIN:
            continue
        if sum(not character.isdigit() for character in distinct) < DISTINCT_CHARS_MIN:
            return "is weak: hardly more than common words, digits and keys in a row"
    return ""


def _looks_random(text: str) -> bool:
    """Whether `text` has the random form and nothing that a person would have put there."""
    return (
        _BASE32.fullmatch(text) is not None
        and sum(character in "234567" for character in text) >= RANDOM_DIGITS_MIN
        and len(set(text)) >= RANDOM_DISTINCT_MIN
        and not _repeats(text)
        and _without_runs(text) == text
    )


def _repeats(text: str) -> bool:
    """Whether `text` is one shorter text several times."""
    return text in (text + text)[1:-1]


def _without_runs(text: str) -> str:
    """`text` with a space for each run of neighbours, forward or backward."""
    for run in _RUNS:
        for row in (run, run[::-1]):
            for size in range(len(row), _RUN_CHARS_MIN - 1, -1):
                for start in range(len(row) - size + 1):
                    text = text.replace(row[start : start + size], " ")
    return text
