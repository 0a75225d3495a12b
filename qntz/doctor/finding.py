"""One line of `qntz doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qntz.redact import redacted

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """What was found, without the secrets of the environment: it is meant for bug reports.

    Attributes:
        section: the part of the table. name: of what it is about. value: what was found. state: "note": something that
            some uses want is not there; "broken": no default pipeline works like this. do: what to do then.
    """

    section: str
    name: str
    value: str
    state: State = "ok"
    do: str = ""

    def __post_init__(self) -> None:
        for name in ("name", "value", "do"):
            object.__setattr__(self, name, redacted(getattr(self, name)))
