"""Tasks on Ray: one of Ray's for each, without retries of its own, which could not tell a failed stage from a worker
that is gone."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Any

from qntz.errors import one_line
from qntz.fleet import node
from qntz.fleet.cluster import ClusterError
from qntz.fleet.node import LOST, Answer
from qntz.fleet.requests import Request

SECONDS = 10.0  # for the head to answer
INSTALL = 'Install it: pip install "qntz[ray]".'
OF_RAY = ("node:", "object_store_memory")  # what its nodes have besides what may be asked for


class Ray:
    """A `qntz.fleet.cluster.Cluster`.

    Args:
        address: as `ray.init` takes it, "" for the cluster that this machine belongs to.

    Raises:
        ClusterError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise ClusterError("Ray is not installed", where="--on ray", do=INSTALL) from error
        self._ray = ray
        try:
            if ":" in address and "://" not in address:  # Ray itself tries for minutes
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=SECONDS).close()
            found = ray.init(address=address or "auto", log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # it has many kinds
            do = "Start one with `ray start --head`, or give --address HOST:PORT."
            raise ClusterError("no cluster of Ray can be reached", where=address, why=one_line(error), do=do) from error
        told = getattr(found, "address_info", None)  # a client from afar has none
        self.place = f"Ray at {told['gcs_address'] if told else address or os.environ.get('RAY_ADDRESS', '')}"
        self._work = ray.remote(max_retries=0, num_cpus=1)(node.work)

    def refusal(self, request: Request) -> str:
        wanted = {"CPU": float(request.ray.get("num_cpus", 1)), **request.ray.get("resources", {})}
        own = (("GPU", "num_gpus"), ("memory", "memory"))
        wanted |= {name: request.ray[key] for name, key in own if key in request.ray}
        try:
            nodes = [one["Resources"] for one in self._ray.nodes() if one["Alive"]]
        except Exception as error:  # of RPC, or its own
            raise ClusterError("Ray does not answer", why=one_line(error)) from error
        if any(all(have.get(name, 0) >= amount for name, amount in wanted.items()) for have in nodes):
            return ""
        asked = ", ".join(f"{name}: {amount:g}" for name, amount in wanted.items() if amount)
        known = sorted({name for have in nodes for name in have if not name.startswith(OF_RAY)})
        return f"none of {len(nodes)} nodes has {asked}; there are {', '.join(known)}"

    def start(self, task: Mapping[str, Any], request: Request, name: str) -> _Task:
        try:
            return _Task(self._ray, self._work.options(name=name, **request.ray).remote(dict(task)))
        except (ConnectionError, self._ray.exceptions.RayError) as error:
            raise ClusterError("Ray does not answer", why=one_line(error)) from error

    def close(self) -> None:
        self._ray.shutdown()


class _Task:
    def __init__(self, ray: Any, reference: Any):
        self._ray, self._reference = ray, reference

    def poll(self) -> Answer | None:
        try:
            done, _ = self._ray.wait([self._reference], timeout=0)
            if not done:
                return None
            return Answer(**self._ray.get(self._reference))
        except self._ray.exceptions.RayTaskError as error:  # of our own code on the worker
            return Answer(node.FAILED, [one_line(error.cause if isinstance(error.cause, Exception) else error)])
        except (self._ray.exceptions.RuntimeEnvSetupError, self._ray.exceptions.TaskUnschedulableError) as error:
            return Answer(node.FAILED, [one_line(error)])
        except self._ray.exceptions.RayError as error:  # of the worker, its node, or the way to them
            return Answer(LOST, [one_line(error)])
        except ConnectionError as error:  # of a client from afar
            raise ClusterError("Ray does not answer any more", why=one_line(error)) from error

    def cancel(self) -> None:
        with contextlib.suppress(ConnectionError, self._ray.exceptions.RayError):
            self._ray.cancel(self._reference, force=True)
