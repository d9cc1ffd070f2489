"""The cookie that pairing brought, in ``state_dir/paired-cookie``.

Decides which cookie counts at the next start. The daemon never writes the cookie file itself: that
is the operator's, and as a service the daemon may not.

- The file has the new cookie and, below it, the one that it takes the place of, so that nodes that
  are not paired yet are still linked. It is replaced at once and for good (`secret_files`).
- It names the cookie file's first cookie, by a hash, as it was then. Once the operator writes
  another one there, that one counts and this file no more.

All functions block, and derive keys (`store/cookie.py`): call them in a thread.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from drupelet.errors import ConfigError
from drupelet.store.cookie import Cookie, cookie_from_text, load_cookie
from drupelet.store.secret_files import read_secret_file, replace_secret_file

FILE: Final = "paired-cookie"
_WHAT: Final = "the cookie of pairing"
_REPLACES: Final = re.compile(r"^# replaces ([0-9a-f]{32})$", re.MULTILINE)
_HEAD: Final = "# The cookie that `drupelet pair` brought. Remove this file to forget it."


def cookies_in_force(
    path: Path, cookies: tuple[Cookie, ...], *, environment: str
) -> tuple[Cookie, ...]:
    """Those of `path` while the cookie file has not changed since; else `cookies`, which it has.

    Raises: `ConfigError` for a file that cannot be used.
    """
    content = read_secret_file(path, what=_WHAT)
    if content is None:
        return cookies
    found = _REPLACES.search(content.decode("utf-8", "replace"))
    if found is None:
        raise ConfigError(
            f"{_WHAT} is damaged", mend="remove the file, and pair again", file=str(path)
        )
    if not hmac.compare_digest(found[1], _tag(cookies[0])):
        return cookies
    return load_cookie(path, environment=environment)


def keep_paired_cookie(path: Path, text: str, former: str, file_cookie: Cookie) -> None:
    """Use `text` from the next start on, and `former` ("": none) besides. Raises: `ConfigError`."""
    lines = [_HEAD, f"# replaces {_tag(file_cookie)}", text, *([former] if former else [])]
    replace_secret_file(path, "".join(f"{line}\n" for line in lines).encode(), what=_WHAT)


def text_of(psk: bytes, paths: Iterable[Path], *, environment: str) -> str:
    """The text of the cookie with that PSK, from one of these files; "": in none of them.

    Raises: `ConfigError` for a file that cannot be used.
    """
    for path in paths:
        content = read_secret_file(path, what=_WHAT) or b""
        for line in content.decode("utf-8-sig", "replace").splitlines():
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if cookie_from_text(text, environment, file=str(path)).psk == psk:
                return text
    return ""


def _tag(cookie: Cookie) -> str:
    return hashlib.blake2b(cookie.psk, digest_size=16, person=b"drupelet paired").hexdigest()
