"""simplify: the ONNX graph folded by onnxsim and plugins' passes, and compared with eager again."""

from stages.entry import Job, run


def work(job: Job) -> None:
    from qntz.artifacts import read_runs, write_json, write_model
    from qntz.simplify import record, simplify

    config = job.config.simplify
    simplified = simplify(
        job.of.onnx,
        read_runs(job.of.probes),
        read_runs(job.of.golden),
        method=config.method,
        tolerance=config.tolerance,
        passes=job.plugins.provided("qntz_graph_passes", phase="simplify"),
        require=config.require,
        forbid=config.forbid,
    )
    told = record(simplified, config.tolerance)
    write_model(job.of.simplified, simplified.file, both=True)
    write_json(job.of.simplify_json, told)
    before, after = (sum(o.values()) for o in (simplified.operators_before, simplified.operators_after))
    job.say(f"{before} nodes to {after}, worst error {simplified.parity.error:.2g}")


if __name__ == "__main__":
    run("simplify", work)
