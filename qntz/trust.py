"""Saved models hold code: one is loaded only where the configuration names its digest."""

from __future__ import annotations

import re

from qntz.errors import ConfigError

DIGEST = re.compile(r"[0-9a-f]{64}")
HOLDS = {
    "torchscript": "a TorchScript archive holds code, which runs as soon as it is loaded",
    "program": "an exported program holds pickles, which run code as soon as it is loaded",
}


def require_digest(trusted: str, where: str) -> None:
    """Raises ConfigError for what is no SHA-256 in hex."""
    if not DIGEST.fullmatch(trusted):
        do = "Give the 64 digits that `sha256sum` prints of the file."
        raise ConfigError(f"{trusted!r} is no SHA-256", where=where, do=do)


def require_trusted(key: str, file: str, digest: str, trusted: str | None, where: str = "model.trusted") -> None:
    """Raises ConfigError where the digest of a saved model is not the one that was trusted.

    Args:
        key: "torchscript" or "program", of the model section. file: its value. digest: SHA-256 of the file, in hex.
    """
    if trusted == digest:
        return
    do = f"If you trust who made it, put `trusted: {digest}` beside `{key}:`."
    if trusted is None:
        raise ConfigError(f"{file} is not trusted", where=where, why=HOLDS[key], do=do)
    why = f"{HOLDS[key]}, and the file that was trusted is {trusted[:12]}…"
    raise ConfigError(f"{file} is another file than the trusted one", where=where, why=why, do=do)
