"""report: one page that compares the model's engines, their figures per layer for `dvc plots show`, and gates."""

from stages.entry import Job, run


def work(job: Job) -> None:
    from rich.console import Console

    from qntz.artifacts import write_together
    from qntz.report import gather, plots_csv, render_html, terminal_summary
    from qntz.report.gates import gates, require, table

    config = job.config.report
    found = gather(job.of, config.engines)
    asked = gates(found, config.gates)
    rows = job.plugins.rows(found.as_dict())
    page = render_html(found, rows, config).encode()
    write_together({job.of.report: page, job.of.plots: plots_csv(found).encode()})
    console = Console()
    if not console.is_terminal:  # a log has no width to fit into: rather long lines than cut figures
        console = Console(width=max(console.width, 120))
    console.print(terminal_summary(found))
    job.say(f"build/reports/{job.name}.html")
    if config.gates:
        console.print(table(asked))
        require(asked)


if __name__ == "__main__":
    run("report", work)
