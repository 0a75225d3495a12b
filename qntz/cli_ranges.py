"""`qntz ranges SOURCE [TARGET]`: TensorRT's calibration cache to ranges.json and back, and what one lacks that another
has."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from qntz.errors import ArtifactError, QuantizeError, UsageError


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    parser = commands.add_parser("ranges", help="TensorRT's calibration cache to ranges.json and back")
    parser.add_argument("source", type=Path, help="a calibration cache, or a ranges.json")
    parser.add_argument("target", type=Path, nargs="?", help="what to write: a .json, or anything else for a cache")
    parser.add_argument("--against", type=Path, help="another of either kind: lists what one has and the other lacks")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Converts, compares; returns the exit code, 1 where `--against` differs."""
    from qntz.artifacts import write_json, write_text
    from qntz.quantize.cache import as_cache, as_json, missing

    if options.target is None and options.against is None:
        raise UsageError("nothing to do", where=str(options.source), do="Name a target, or --against another file.")
    ranges, precision = _read(options.source)
    if options.target is not None:
        if options.target.is_dir():
            raise UsageError("is a folder", where=str(options.target), do="Name a file.")
        if options.target.suffix == ".json":
            write_json(options.target, as_json(ranges, precision, ""))
        elif precision != "int8":
            do = "Name a .json."
            raise QuantizeError(
                f"are ranges of {precision}", where=str(options.source), why="a calibration cache is int8's", do=do
            )
        else:
            write_text(options.target, as_cache(ranges))
        print(f"{options.target}: {len(ranges)} tensors")
    if options.against is None:
        return 0
    here, there = missing(ranges, _read(options.against)[0])
    for name in here:
        print(f"only in {options.source}: {name}")
    for name in there:
        print(f"only in {options.against}: {name}")
    if not (here or there):
        print(f"the same {len(ranges)} tensors")
    return 1 if here or there else 0


def _read(path: Path) -> tuple[dict[str, float], str]:
    from qntz.quantize.cache import precision_of, read_ranges

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ArtifactError("cannot be read", where=str(path), why=error.strerror or str(error)) from error
    except UnicodeDecodeError:
        raise QuantizeError(
            "is no calibration cache and no ranges.json", where=str(path), why="it is no text"
        ) from None
    return read_ranges(text, str(path)), precision_of(text)
