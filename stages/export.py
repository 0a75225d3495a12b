"""export: TorchScript to ONNX, checked, run under ONNX Runtime and compared with eager on every probe."""

from stages.entry import Job, run


def work(job: Job) -> None:
    from qntz.artifacts import CAPTURED_JSON, read_json, read_runs, write_json, write_model
    from qntz.export import SYMBOLICS, export, record
    from qntz.model import load_captured
    from qntz.records import Capture

    config, told = job.config.export, read_json(job.of.captured / CAPTURED_JSON)
    captured = Capture(
        module=load_captured(job.of.captured),
        shapes={name: job.config.model.inputs[name].shape for name in told["inputs"]},
        probes=read_runs(job.of.probes),
        golden=read_runs(job.of.golden),
        statements=told["statements"],
    )
    exported = export(
        captured,
        opset=config.opset,
        tolerance=config.tolerance,
        symbolics=[one for hook in SYMBOLICS for one in job.plugins.provided(hook, opset=config.opset)],
        passes=job.plugins.provided("qntz_graph_passes", phase="export"),
        require=config.require,
        forbid=config.forbid,
        made_from=told["made_from"],
    )
    told = record(exported, config.tolerance)
    write_model(job.of.onnx, exported.file, both=True)
    write_json(job.of.export_json, told)
    write_json(job.of.sources, exported.sources)
    nodes = sum(exported.operators.values())
    job.say(f"opset {exported.opset}, {nodes} nodes, worst error {exported.parity.error:.2g}")


if __name__ == "__main__":
    run("export", work)
