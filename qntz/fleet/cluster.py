"""What a cluster has to do for `qntz repro --on CLUSTER`: take tasks, say how they stand, and let go of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from qntz.errors import QntzError, UsageError
from qntz.fleet.node import Answer
from qntz.fleet.requests import Request


class ClusterError(QntzError):
    """The cluster cannot be reached, or refuses what it is asked."""


class Running(Protocol):
    """A task that a cluster has taken."""

    def poll(self) -> Answer | None:
        """What came of it; None while it waits or works. One whose worker is gone is "lost"."""

    def cancel(self) -> None:
        """Ends it, with all that it has started."""


class Cluster(Protocol):
    """Ray or Slurm. place: which it is, for people; "" where there can be one alone."""

    place: str

    def refusal(self, request: Request) -> str:
        """Why no worker could ever take what is asked so, in words; "" where one can."""

    def start(self, task: Mapping[str, Any], request: Request, name: str) -> Running:
        """Hands a task over, to be done as soon as a worker is free; `name` is for people."""

    def close(self) -> None:
        """Ends the connection."""


def opened(kind: str, address: str, folder: Path) -> Cluster:
    """A cluster by its kind, "ray" or "slurm".

    Args:
        address: of Ray's head, "" for the one that runs here. folder: for what a Slurm job reads and writes; the
            workers have to see it.

    Raises:
        ClusterError: it is not installed, or cannot be reached.
    """
    if kind == "ray":
        from qntz.fleet.on_ray import Ray

        return Ray(address)
    if address:
        raise UsageError("--address is Ray's", do="Leave it out: Slurm is found by its own configuration.")
    from qntz.fleet.on_slurm import Slurm

    return Slurm(folder)
