"""Every error that a user can meet. One line says what happened, where, why, and what to do."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qntz.redact import redacted


class QntzError(Exception):
    """An error with its cause, its place and its mend, without the secrets of the environment.

    Args:
        what: what went wrong, in a few words ("weights do not fit the model").
        where: the file, key, operator or sample it concerns ("conf/model/digits.yaml: weights").
        why: the reason, with the values that matter ("stem.weight is [16, 1, 3, 3], the model wants [32, 1, 3, 3]").
        do: what the user can do about it, as a sentence ("Set model.factory.width to 16.").
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", do: str = ""):
        self.what, self.where, self.why, self.do = (redacted(str(part)) for part in (what, where, why, do))
        super().__init__(self._line())

    def _line(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        if self.why:
            line += f": {self.why.rstrip('.')}"
        line = line if line.endswith("?") else line.rstrip(".") + "."
        if self.do:
            line += f" {self.do}"
        return " ".join(line.split())

    def as_dict(self) -> dict[str, str]:
        return {"what": self.what, "where": self.where, "why": self.why, "do": self.do}


class UsageError(QntzError):
    """The command line is wrong; exit code 2."""

    exit_code = 2


class ConfigError(QntzError):
    """conf/ or params.yaml holds something that cannot be used."""


class PluginError(QntzError):
    """A plugin does not load, implements an unknown hook, fails at what it is called for, or two provide one name."""


class ModelError(QntzError):
    """The model cannot be built, its weights do not fit, or it refuses its inputs."""


class CheckError(QntzError):
    """The rule check found something at error level."""


class DataError(QntzError):
    """Calibration or test data are missing, empty, of the wrong kind, or hold NaN or infinity."""


class CaptureError(QntzError):
    """The model cannot be captured as TorchScript, or what was captured is not the model.

    Attributes:
        tried: of a capture by several routes, each with its reason and place.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", do: str = "", tried: Sequence[Any] = ()):
        super().__init__(what, where=where, why=why, do=do)
        self.tried = tuple(tried)


class RewriteError(QntzError):
    """A rewrite did not fire although it was required, or its output differs from the original's."""


class ExportError(QntzError):
    """TorchScript could not be turned into ONNX."""


class ParityError(QntzError):
    """An artifact's outputs differ from the eager model's by more than its tolerance."""


class QuantizeError(QntzError):
    """A graph cannot be quantized as asked."""


class BackendError(QntzError):
    """A backend cannot work here, or refuses the graph.

    Attributes:
        nodes: those that it refuses: of each the position among all nodes, -1 where that is not known, its name, its
            operator, and why.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        why: str = "",
        do: str = "",
        nodes: Sequence[tuple[int, str, str, str]] = (),
    ):
        super().__init__(what, where=where, why=why, do=do)
        self.nodes = tuple(nodes)


class ArtifactError(QntzError):
    """A file of the pipeline is missing, damaged or cannot be written."""


def unreadable(path: Path, error: OSError) -> ArtifactError:
    """The error for an artifact that the system does not open."""
    if isinstance(error, FileNotFoundError):
        return ArtifactError("is missing", where=str(path), do="Run `dvc repro`.")
    do = "Remove what is in its place, and run `dvc repro`."
    return ArtifactError("cannot be read", where=str(path), why=error.strerror or str(error), do=do)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a sentence, or the known names when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(known)}." if known else "None is known."


MAKE_ROOM = "Free space there, or set TMPDIR to a folder that has some."
DEBUG = "See all of it with `python -m stages.STAGE NAME --debug`."


def one_line(error: BaseException, place: bool = False) -> str:
    """The first telling line of a foreign error, with its type where the text alone would not tell; and with `place`
    the file and line that raised it."""
    lines = [line.strip() for line in redacted(str(error)).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if isinstance(error, QntzError):
        return text
    if isinstance(error, SystemExit):
        text = f"it ended the program (exit code {text or 0})"
    else:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__) if place else ()
    if not frames or frames[-1].filename.startswith(f"{Path(__file__).parent}/"):
        return text  # what qntz called could not even be entered
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
