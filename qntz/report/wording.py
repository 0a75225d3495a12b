"""Figures in words. A figure that nobody measured is never a number."""

from __future__ import annotations

import math

from qntz.config import CAP_DB

NOT_MEASURED = "not measured"


def fraction(value: float | None) -> str:
    """Four decimals, never rounded up to 1 ("> 0.9999")."""
    if value is None:
        return NOT_MEASURED
    if math.isnan(value):
        return "no number"
    text = f"{value:.4f}"
    return "> 0.9999" if text == "1.0000" and value < 1 else text


def error(value: float | None) -> str:
    """A relative error, "1.2e-7"; NaN and infinity stand for one without bounds."""
    if value is None:
        return NOT_MEASURED
    if not math.isfinite(value):
        return "unbounded"
    if value == 0:
        return "0"
    return scientific(value)


def scientific(value: float) -> str:
    """Two significant digits and the power of ten, "1.2e-7", "1e-4"."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def decibel(value: float | None) -> str:
    """An SQNR with its unit, "34.7 dB"; none where nothing differs, which metrics.json caps, or where all does."""
    if value is None:
        return NOT_MEASURED
    if math.isnan(value):
        return "no number"
    if abs(value) >= CAP_DB:
        return "exact" if value > 0 else "broken"
    return f"{value:.1f} dB"


def size(value: float | None) -> str:
    """Bytes in KB (1024 bytes), from 10 MB on in MB."""
    if value is None:
        return NOT_MEASURED
    return f"{value / 1024:,.1f} KB" if value < 10 * 1024 * 1024 else f"{value / 1024 / 1024:,.1f} MB"


def milliseconds(value: float) -> str:
    """Three significant digits: "0.392 ms", "12.5 ms"; in seconds what comes to one, beyond 999 s in whole ones."""
    number, unit = (value, "ms") if value < 999.5 else (value / 1000, "s")
    return f"{number:.3g} {unit}" if number < 999.5 else f"{number:,.0f} {unit}"


def count(value: int | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,}"


def many(number: int, noun: str) -> str:
    """The number with its noun: "1 engine", "2 engines"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
