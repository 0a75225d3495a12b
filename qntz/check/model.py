"""The rule check of one live model: what its runs, its object and its source show, and what the rules make of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from qntz import plugins
from qntz.check.flow import flows
from qntz.check.index import SourceIndex, own_packages
from qntz.check.observe import Observer
from qntz.check.report import CheckReport
from qntz.check.scripted import refusals
from qntz.check.source import Sources
from qntz.check.subject import Inputs, Subject
from qntz.errors import ConfigError, PluginError, QntzError, did_you_mean, one_line
from qntz.records import Finding, Provided, Rule, Severity
from qntz.rewrite import REWRITES

if TYPE_CHECKING:
    from qntz.config import DimConfig

UNEXPLAINED, UNUSED = "unexplained-ignore", "unused-ignore"


@torch.inference_mode(False)  # its tensors would not tell who writes into them
def check_model(
    module: torch.nn.Module,
    example_inputs: Inputs,
    probes: Sequence[Inputs] = (),
    *,
    dims: Mapping[str, DimConfig] | None = None,
    source_root: Path | None = None,
    rules: Sequence[Rule] | None = None,
    severity: Mapping[str, str] | None = None,
    route: str = "trace",
    opset: int = 17,
    symbolics: Sequence[Provided] | None = None,
    rewrites: Sequence[Provided] | None = None,
) -> CheckReport:
    """Runs the model on its inputs, reads what its forward reaches, and applies the rules.

    The model is run once an input, in the mode that it is in and without gradients, and again for each leaked value
    whose effect a rule asks for, under another seed, and while traces are recorded. Inputs are cloned; what `State`
    keeps and the random generators are put back.

    Args:
        module: the live model. example_inputs: tensors by input name, in the order of forward's arguments, or a tuple.
        probes: further inputs of the same kind. dims: the dynamic dimensions, for rules that vary sizes.
        source_root: paths below it are shown relative to it. rules: gathered from the hook `qntz_rules`; None: those
        that qntz ships, installed plugins provide, and `source_root` holds in plugins/.
        severity: another severity for a rule's findings, by its slug; "off" drops them.
        route: how the model is to be captured: "trace", "script", "mixed", "paths", "dynamo" or "auto", which takes
        the first that is right. What only another route stumbles over is a note, what "auto" can go around a warning.
        opset: of the ONNX export. symbolics: translations to it, gathered from the hook `qntz_symbolics` as the rules.
        rewrites: of submodules and functions, which the capture will make, gathered likewise.

    Raises:
        ModelError: the model does not run on an input, and no error-level finding tells why.
        ConfigError: `severity` names no rule. PluginError: a rule failed.
    """
    severity = dict(severity or {})
    if rules is None or symbolics is None or rewrites is None:
        installed = plugins.load(source_root or Path.cwd(), "check")
        rules = list(installed.records("qntz_rules").values()) if rules is None else rules
        symbolics = installed.provided("qntz_symbolics", opset=opset) if symbolics is None else symbolics
        if rewrites is None:
            rewrites = [one for hook in REWRITES for one in installed.provided(hook)]
    for slug in severity:
        if slug not in (known := {rule.slug for rule in rules}):
            raise ConfigError(f"unknown rule {slug!r}", where=f"check.severity.{slug}", do=did_you_mean(slug, known))
    index = SourceIndex(module, Sources(source_root), own_packages(module))
    observer = Observer(module, [example_inputs, *probes], index)
    observations = observer.observe()
    if observations.failure is None and not isinstance(module, torch.jit.ScriptModule):
        refused, compiled = refusals(module, index, everything=route == "script")
        script = observer.scripted(compiled) if route == "script" and compiled is not None else None
        observations = dataclasses.replace(observations, refusals=refused, script=script)
    flow = flows(index, observer.log.marks())
    effects = observer.effects()
    subject = Subject(
        module=module,
        example=example_inputs,
        probes=tuple(probes),
        dims=dict(dims or {}),
        observations=observations,
        index=index,
        foreign=flow.foreign,
        tests=flow.tests,
        reentries=flow.reentries,
        route=route,
        effect=effects.of,
        seed_matters=effects.seed_matters,
        exported=functools.cache(lambda: observer.exported(opset, symbolics, rewrites)),
    )
    findings = _not_ignored(_explained(subject, _found(subject, rules)), index, severity)
    unique = {(f.path, f.line, f.column, f.slug, f.message): f for f in findings}
    failure = observations.failure
    lines = {f.path: _lines(index.sources, f.path) for f in unique.values()}
    report = CheckReport(tuple(unique[key] for key in sorted(unique)), str(failure or ""), lines)
    if failure is not None and not report.errors:
        raise failure
    return report


def _found(subject: Subject, rules: Iterable[Rule]) -> list[Finding]:
    found: list[Finding] = []
    for rule in rules:
        try:
            found += rule.find(subject)
        except QntzError:
            raise
        except Exception as error:
            raise PluginError(f"the rule {rule.slug!r} failed", where=rule.code, why=one_line(error)) from error
    return found


def _explained(subject: Subject, found: list[Finding]) -> list[Finding]:
    """The findings, and one more where the capture goes wrong that is asked for and none of them tells why."""
    trace = subject.observations.trace if subject.route == "trace" else subject.observations.script
    if trace is None or any(finding.severity == "error" for finding in found):
        return found
    place = subject.index.place_of_forward()
    if trace.refused is not None:
        place = subject.index.place_at(trace.refused.where) or place
        message = f"torch cannot trace the model: {trace.refused.why}"
    elif trace.wrong:
        runs = ", ".join(dict.fromkeys(_shown(run, subject) for run in trace.wrong[:3]))
        what = "a trace of the example" if subject.route == "trace" else "the scripted model"
        message = f"{what} gives other outputs than the model on {runs}; no line was found to be why"
    else:
        return found
    return [*found, subject.finding(f"{subject.route}-differs", "error", place, message, "observed run")]


def _shown(run: int, subject: Subject) -> str:
    return "the example" if run == 0 else f"probe {run - 1}" if subject.probes else "the example with other values"


def _not_ignored(found: Iterable[Finding], index: SourceIndex, severity: Mapping[str, str]) -> list[Finding]:
    """The findings with the severities that the configuration gives them, without those that a comment on their line
    drops; a comment without a reason is a finding itself, and so is one that drops nothing."""
    kept: list[Finding] = []
    used: set[tuple[str, int, str]] = set()
    for finding in found:
        file = index.sources.by_path(finding.path)
        used.add((finding.path, finding.line, finding.slug))
        ignore = file.ignores.get(finding.line) if file is not None else None
        if ignore is None or finding.slug not in ignore.slugs:
            kept += _weighed(finding, severity)
        elif not ignore.reason:
            message = f"{finding.slug} is ignored without a reason"
            note = Finding(UNEXPLAINED, "note", finding.path, finding.line, ignore.column, message, "static source")
            kept += _weighed(note, severity)
    for path, line, slug, column in _ignores(index):
        if (path, line, slug) not in used:
            note = Finding(
                UNUSED, "note", path, line, column, f"{slug} is ignored here, and not found", "static source"
            )
            kept += _weighed(note, severity)
    return kept


def _ignores(index: SourceIndex) -> set[tuple[str, int, str, int]]:
    """The comments in the functions that were reached, as (path, line, slug, column)."""
    return {
        (function.file.path, line, slug, ignore.column)
        for function in index.functions.values()
        for line, ignore in function.file.ignores.items()
        if function.node.lineno <= line <= (function.node.end_lineno or 0)
        for slug in ignore.slugs
    }


def _weighed(finding: Finding, severity: Mapping[str, str]) -> list[Finding]:
    wanted = severity.get(finding.slug, finding.severity)
    return [] if wanted == "off" else [dataclasses.replace(finding, severity=cast(Severity, wanted))]


def _lines(sources: Sources, path: str) -> tuple[str, ...]:
    file = sources.by_path(path)
    return tuple(file.lines) if file is not None else ()
