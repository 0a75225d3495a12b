"""check: every hazard of the model that the rules know; exit 1 on an error-level finding."""

from collections.abc import Callable

from stages.entry import Job, run

GIB = 2**30


def work(job: Job) -> None:
    from qntz.guard import guarded

    limits = job.config.check
    guarded(lambda loaded: check(job, loaded), seconds=limits.seconds, memory=int(limits.memory_gib * GIB))


def check(job: Job, loaded: Callable[[], None]) -> None:
    from qntz.artifacts import write_json
    from qntz.check import as_json, as_sarif, check_configured, render, summary_line, verdict
    from qntz.errors import CheckError

    rules = list(job.plugins.records("qntz_rules").values())
    report = check_configured(job.config, job.root, job.plugins, loaded)
    job.require_known()
    if report.findings:
        print(render(report, rules, job.root))
    # the findings of a failed check are what its reader needs; only verdict.json lets the pipeline go on
    write_json(job.of.check_json, as_json(report))
    write_json(job.of.check_sarif, as_sarif(report, rules, f"qntz/{job.name}"))
    if report.errors:
        raise CheckError(summary_line(report), do="Repair them, or set another severity in check.severity.")
    write_json(job.of.verdict, verdict(report))
    job.say(summary_line(report))


if __name__ == "__main__":
    run("check", work)
