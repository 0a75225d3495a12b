"""torchscript: the model captured, after the module rewrites, and compared with eager on every probe."""

from stages.entry import Job, run


def work(job: Job) -> None:
    from qntz import testdata
    from qntz.artifacts import CAPTURED_JSON, CAPTURED_PROGRAM, CAPTURED_SCRIPT, write_copy, write_json, write_runs
    from qntz.eager import fix_threads
    from qntz.export import SYMBOLICS
    from qntz.model import in_order, load_model
    from qntz.probes import probes_for
    from qntz.torchscript import REWRITES, capture, record, reference_outputs

    model, config = job.config.model, job.config.torchscript
    eager = load_model(model.factory, model.weights, model.torchscript or model.program, job.root, model.trusted)
    fix_threads()
    order = in_order(eager, list(model.inputs))
    samples = testdata.read(model, job.plugins.records("qntz_data_sources"), job.root)
    probes = probes_for(model.probes, model.inputs, model.dims, job.root, samples)
    captured = capture(
        eager,
        probes[0],
        probes[1:],
        dims=model.dims,
        shapes={name: spec.shape for name, spec in model.inputs.items()},
        method=config.method,
        tolerance=config.tolerance,
        opset=job.config.export.opset,
        rewrites=[one for hook in REWRITES for one in job.plugins.provided(hook)],
        require=config.require,
        forbid=config.forbid,
        symbolics=[one for hook in SYMBOLICS for one in job.plugins.provided(hook, opset=job.config.export.opset)],
        seconds=config.seconds,
        memory=int(config.memory_gib * 2**30),
    )
    reference = reference_outputs(eager, [inputs for inputs, _ in testdata.batched(model, samples)], order)
    told = record(captured, config.tolerance, eager)
    source = model.weights or model.torchscript or model.program
    weights = {source: job.inputs["weights"]} if source else {}
    made_from = {**weights, **job.inputs["model_files"], **job.inputs["extra"]}
    write_copy(job.of.captured / (CAPTURED_PROGRAM if captured.is_program else CAPTURED_SCRIPT), captured.file)
    index = {"inputs": captured.order, "made_from": made_from, "statements": captured.statements}
    write_json(job.of.captured / CAPTURED_JSON, index)
    write_runs(job.of.probes, probes)
    write_runs(job.of.golden, captured.golden)
    write_runs(job.of.reference, reference)
    write_json(job.of.torchscript_json, told)
    fired = [proof.name for proof in captured.rewrites if proof.places]
    job.say(
        f"{captured.method} is right on {len(probes)} probes, worst error {captured.worst.error:.2g}"
        + (f"; rewritten: {', '.join(fired)}" if fired else "")
    )


if __name__ == "__main__":
    run("torchscript", work)
