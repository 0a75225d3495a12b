"""The rule check: what stands in the way of capturing a model, with its line, its evidence and its mend."""

from qntz.check.configured import check_configured
from qntz.check.github import as_github
from qntz.check.model import check_model
from qntz.check.render import render
from qntz.check.report import CheckReport, as_json, summary_line, verdict
from qntz.check.sarif import as_sarif
from qntz.check.subject import DeviceUse, Leak, Observations, Seen, StateChange, Subject, Test, Trace

__all__ = [
    "CheckReport",
    "DeviceUse",
    "Leak",
    "Observations",
    "Seen",
    "StateChange",
    "Subject",
    "Test",
    "Trace",
    "as_github",
    "as_json",
    "as_sarif",
    "check_configured",
    "check_model",
    "render",
    "summary_line",
    "verdict",
]
