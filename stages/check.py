"""check: every hazard of the model that the rules know; exit 1 on an error-level finding."""

from qntz.artifacts import write_json
from qntz.errors import CheckError
from stages.entry import Job, run


def work(job: Job) -> None:
    import torch

    from qntz.check import as_json, as_sarif, check_model, render, summary_line, verdict
    from qntz.model import in_order, load_model
    from qntz.probes import probes_for

    model, severity = job.config.model, job.config.check.severity
    rules = list(job.plugins.records("qntz_rules").values())
    module = load_model(model.factory, model.weights, model.torchscript, job.root)
    probes = probes_for(model.probes, model.inputs, model.dims, job.root)
    order = in_order(module, list(model.inputs))  # by name, as all stages bind them
    example, *further = [{name: torch.from_numpy(probe[name]) for name in order} for probe in probes]
    report = check_model(
        module,
        example,
        further,
        dims=model.dims,
        source_root=job.root,
        rules=rules,
        severity=severity,
        route=job.config.torchscript.method,
    )
    if report.findings:
        print(render(report, rules, job.root))
    # the findings of a failed check are what its reader needs; only verdict.json lets the pipeline go on
    write_json(job.of.check_json, as_json(report))
    write_json(job.of.check_sarif, as_sarif(report, rules))
    if report.errors:
        raise CheckError(summary_line(report), do="Repair them, or set another severity in check.severity.")
    write_json(job.of.verdict, verdict(report))
    job.say(summary_line(report))


if __name__ == "__main__":
    run("check", work)
