"""The way to other machines: what git, DVC and what they speak with say where it fails, and whether it may be there in
a moment."""

from __future__ import annotations

import re

DENIED = re.compile(
    r"AccessDenied|Forbidden|Permission denied|Authentication failed|InvalidAccessKeyId|SignatureDoesNotMatch|"
    r"(locate|No) credentials|NoCredentials|NoSuchBucket",
    re.IGNORECASE,
)
FULL = re.compile(r"No space left|Disk quota exceeded|QuotaExceeded|StorageFull|EntityTooLarge|InsufficientStorage")
AWAY = re.compile(
    r"connect|connection|timed? ?out|unreachable|reset by peer|temporar|name resolution|not resolve|broken pipe|"
    r"unexpected(ly)? (eof|closed|disconnect)|early EOF|SlowDown|ServiceUnavailable|InternalError|Bad Gateway|"
    r"has pushed \S+ first|\b50[0234]\b|failed to (transfer|download|upload|pull|push|fetch)|stale file handle|"
    r"input/output error",
    re.IGNORECASE,
)


_STAGES = re.compile(r"'[^'\n]*@[^'\n]*'")  # whose names are people's own


def may_be_there_again(text: str) -> bool:
    """Whether what went wrong lies in the way to another machine, and may not be so in a moment."""
    return _is_away(text) and not _is_for_good(text)


def telling(text: str) -> str:
    """Of the lines that were said, that which tells why: of what is for good, else of the way, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for tells in (_is_for_good, _is_away):
        if found := next(filter(tells, lines), None):
            return _plain(found)
    return _plain(lines[-1]) if lines else ""


def _plain(line: str) -> str:
    return line.removeprefix("ERROR: ").removeprefix("WARNING: ")


def _is_away(text: str) -> bool:
    return bool(AWAY.search(_STAGES.sub("''", text)))


def _is_for_good(text: str) -> bool:
    said = _STAGES.sub("''", text)
    return bool(FULL.search(said) or DENIED.search(said))
