"""Secrets of the environment, kept out of what is written and said: known by the names of their variables, and by the
URLs that hold a password or a token."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

SHORTEST = 8  # characters of a value that is looked for: a shorter one would be found in what it has no part in
SHORTEST_PATH = 20  # of a secret URL, which messages name without the host
PUT = "***"
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_WHOLE = frozenset(  # a part of the name
    (
        "auth",
        "bearer",
        "cookie",
        "cookies",
        "creds",
        "dsn",
        "key",
        "keys",
        "pass",
        "pat",
        "pw",
        "pwd",
        "token",
    )
)
_ENDS = (
    *("apikey", "credential", "credentials", "passcode", "passphrase", "passwd", "password", "privkey", "pgpass"),
    *("dbpass", "secret", "secrets", "secretkey", "sshkey", "token"),
)
_LAST = re.compile(r"(?:^|_)(?:conn(?:ection)?_?str(?:ing)?|jwt|webhook|(?:webhook|sas)_?ur[il])$|_sas$")  # of the name
_PASSWORD = re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s:@]*:(?P<value>[^/\s]+)@", re.IGNORECASE)
_PAIR = re.compile(r"(?P<before>^|[?&;\s])(?P<name>[\w.-]+)=(?P<value>[^&;#\s]+)")
_SIGNED = ("sig", "signature")  # names in the query of a URL, and in a connection string
_PATH = re.compile(r"://[^/\s]+(?P<value>/\S+)")
_NONE = frozenset(("PWD", "OLDPWD"))  # the working directory


@functools.cache
def is_secret(name: str) -> bool:
    """Whether a variable's name says that it holds a secret: AWS_SECRET_ACCESS_KEY, HF_TOKEN, apiKey, PGPASSWORD,
    SLACK_WEBHOOK_URL."""
    parts = [part.lower() for part in _PART.findall(name)]
    if name in _NONE:
        return False
    return any(part in _WHOLE or part.endswith(_ENDS) for part in parts) or bool(_LAST.search("_".join(parts)))


def credentials_in(text: str) -> list[tuple[str, str]]:
    """What the URLs in the text hold: ("password", ...) of `https://user:password@host`, and ("token", ...) of
    `https://host/path?token=...`."""
    if "://" not in text:
        return []
    found = [("password", one["value"]) for one in _PASSWORD.finditer(text)]
    return found + [("token", value) for before, value in _pairs(text) if before in ("?", "&")]


def redacted(text: str) -> str:
    """The text with `***` for every secret of the environment: as it is, and as a URL, a Python text or JSON has it."""
    for value in _secrets():
        if value in text:
            text = text.replace(value, PUT)
    return text


def secret_in(text: str) -> str:
    """The name of the variable whose secret the text holds; "" where it holds none."""
    return next((name for value, name in _secrets().items() if value in text), "")


def _secrets() -> dict[str, str]:
    """The variable of each secret, the longest first, so that none that is part of another leaves the rest of it."""
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        for one in _held(name, value):
            found |= dict.fromkeys(_forms(one), name)
    return {value: found[value] for value in sorted(found, key=len, reverse=True) if len(value.strip()) >= SHORTEST}


def _held(name: str, value: str) -> Iterator[str]:
    """The secrets in a variable: its value, and what a message may have of it alone."""
    credentials = [one for _, one in credentials_in(value)]
    if is_secret(name):
        yield from value.splitlines()
        yield from (one for _, one in _pairs(value))
        yield from (one["value"] for one in _PATH.finditer(value) if len(one["value"]) >= SHORTEST_PATH)
    elif not credentials:
        return
    yield value
    for one in credentials:
        yield from (one, unquote(one))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """The values in `name=value` whose name says that they are secrets, each with the character before the name."""
    for one in _PAIR.finditer(text):
        if is_secret(one["name"]) or one["name"].lower().endswith(_SIGNED):
            yield one["before"], one["value"]


def _forms(one: str) -> Iterator[str]:
    yield one
    for safe in ("/", ""):
        yield quote(one, safe=safe, errors="surrogateescape")
    yield repr(one)[1:-1]
    yield json.dumps(one)[1:-1]
