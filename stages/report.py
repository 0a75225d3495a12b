"""report: one page that compares the model's engines, timed here; figures per layer for `dvc plots show`; gates."""

from stages.entry import Job, run


def work(job: Job) -> None:
    import dataclasses

    from rich.console import Console

    from qntz.artifacts import write_together
    from qntz.bench import machine, time_engines
    from qntz.plugins import load
    from qntz.report import gather, plots_csv, render_html, terminal_summary
    from qntz.report.gates import gates, require, table
    from qntz.report.timed import timings_json

    config = job.config.report
    found = gather(job.of, config.engines)
    gates(found, config.gates)  # what they ask of no engine is told before one is timed
    if config.latency_seconds:
        backends = load(job.root, "verify").records("qntz_backends")  # as verify has them: engine.json knows their code
        timings, why_not = time_engines(job.of, config.engines, backends, config.latency_seconds)
        found = dataclasses.replace(found, timings=timings, not_timed=why_not, timed_on=machine())
    asked = gates(found, config.gates)
    rows = job.plugins.rows(found.as_dict())
    page = render_html(found, rows, config).encode()
    written = {job.of.plots: plots_csv(found).encode(), job.of.timings: timings_json(found)}
    write_together({job.of.report: page, **written})
    console = Console()
    if not console.is_terminal:  # a log has no width to fit into: rather long lines than cut figures
        console = Console(width=max(console.width, 120))
    console.print(terminal_summary(found, console.width))
    job.say(f"build/reports/{job.name}.html")
    if config.gates:
        console.print(table(asked))
        require(asked)


if __name__ == "__main__":
    run("report", work)
