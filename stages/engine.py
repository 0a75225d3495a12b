"""engine: the backend's engine, with everything that it was made from."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from qntz.errors import BackendError, one_line
from stages.entry import Job, run

if TYPE_CHECKING:
    from pathlib import Path

    from qntz.records import Built


def work(job: Job) -> None:
    from qntz.artifacts import digest_file, json_bytes, replacing_together, telling
    from qntz.config import tensor_specs
    from qntz.engine import build_engine, choose_backend, licences
    from qntz.graph import made_from
    from qntz.guard import guarded
    from qntz.packed import read_frame
    from qntz.progress import Bar, restoring

    config, model, paths = job.config.engine, job.config.model, job.paths
    backend = choose_backend(config.backend, job.plugins.records("qntz_backends"))
    told: dict[str, Any] = {}

    def build(to: Path, temporary: str) -> tuple[Built, dict[str, Any]]:
        """Writes the plan, which may be large, to a file: the parent is given the rest."""
        tempfile.tempdir = temporary
        try:
            with Bar(f"engine {job.name}") as progress:
                specs = tensor_specs(model.inputs, model.dims, config.profiles_of(model.dims))
                keys = {key: job.inputs[key] for key in ("code", "plugins", "tools")}
                precision = job.config.quantize.precision
                built, record = build_engine(paths.quantized, specs, config, precision, backend, progress, keys)
        except BackendError as error:
            _tell(job, error)
            raise
        job.require_known()
        with telling(paths.plan):
            to.write_bytes(built.plan)
        return dataclasses.replace(built, plan=b""), record

    def ended(how: str) -> BackendError:
        memory = " It may have run out of memory." if how in ("signal SIGKILL", "MemoryError") else ""
        do = f"Nothing was kept of it.{memory} Build it alone, with less workspace, or report it to {backend.name}."
        return BackendError("the builder ended", where=str(paths.quantized), why=how, do=do)

    def digest() -> None:
        """While the builder works, which takes one core."""
        told["quantized.onnx"] = digest_file(paths.quantized)
        if config.implicit_int8:
            told["calibration.cache"] = digest_file(paths.calibration_cache)
        told["files"] = made_from(read_frame(paths.quantized))

    with replacing_together(paths.plan, paths.engine_json) as (plan, engine_json):
        # a builder that crashes ends itself alone, and leaves nothing behind
        with restoring(), tempfile.TemporaryDirectory() as temporary:
            built, record = guarded(lambda _: build(plan, temporary), ended=ended, meanwhile=digest)
        record["made_from"] |= told
        record["licences"] = licences(job.inputs["tools"])
        with telling(paths.engine_json):
            engine_json.write_bytes(json_bytes(record))
    what = f"{backend.name} {built.version} for {built.target}"
    job.say(f"{what}, {record['bytes']:,} bytes in {built.seconds:.1f} s")


def _tell(job: Job, error: BackendError) -> None:
    """The refused nodes as a table. What this reads beside the graph is no input of the stage: no failure is kept."""
    from qntz.artifacts import read_json
    from qntz.engine import refused_table
    from qntz.origins import origins
    from qntz.packed import read_model
    from qntz.plugins import load

    if not error.nodes:
        return
    try:  # whatever a plugin does here, the error itself is told
        model = read_model(job.paths.quantized)
        sources = read_json(job.of.sources) if job.of.sources.is_file() else {}
        passes = load(job.root, "simplify").provided("qntz_graph_passes", phase="simplify")
        lines = refused_table(error.nodes, model, origins(model, sources), passes, job.root)
    except Exception as failure:
        lines = [f"no table of the nodes: {one_line(failure)}"]
    print("\n".join(lines), file=sys.stderr)


if __name__ == "__main__":
    run("engine", work)
