"""Rows of text in columns, for the terminal and for logs: what may be long stands last, so that nothing wraps."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], numbers: int = 0) -> list[str]:
    """A line for each row, two spaces between columns; the first `numbers` columns end alike, the rest begin alike."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        placed = enumerate(zip(row, widths, strict=True))
        cells = [cell.rjust(width) if at < numbers else cell.ljust(width) for at, (cell, width) in placed]
        lines.append("  ".join(cells).rstrip())
    return lines
