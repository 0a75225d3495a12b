"""The rule check of one live model: what its runs, its object and its source show, and what the rules make of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from qntz.check.flow import foreign_calls
from qntz.check.index import SourceIndex, own_packages
from qntz.check.report import CheckReport
from qntz.check.run import Observer
from qntz.check.source import Sources
from qntz.check.subject import Inputs, Subject
from qntz.errors import ConfigError, PluginError, QntzError, did_you_mean, one_line
from qntz.records import Finding, Rule, Severity

if TYPE_CHECKING:
    from qntz.config import DimConfig

UNEXPLAINED = "unexplained-ignore"


def check_model(
    module: torch.nn.Module,
    example_inputs: Inputs,
    probes: Sequence[Inputs] = (),
    *,
    dims: Mapping[str, DimConfig] | None = None,
    source_root: Path | None = None,
    rules: Sequence[Rule] = (),
    severity: Mapping[str, str] | None = None,
) -> CheckReport:
    """Runs the model on its inputs, reads what its forward reaches, and applies the rules.

    The model is run once an input, in the mode that it is in and without gradients, and again for each leaked value
    whose effect a rule asks for. Inputs are cloned; buffers, training flags and random generators are put back.

    Args:
        module: the live model. example_inputs: tensors by input name, in the order of forward's arguments, or a tuple.
        probes: further inputs of the same kind. dims: the dynamic dimensions, for rules that vary sizes.
        source_root: paths below it are shown relative to it. rules: gathered from the hook `qntz_rules`.
        severity: another severity for a rule's findings, by its slug; "off" drops them.

    Raises:
        ModelError: the model does not run on an input, and no error-level finding tells why.
        ConfigError: `severity` names no rule. PluginError: a rule failed.
    """
    severity = dict(severity or {})
    for slug in severity:
        if slug not in (known := {rule.slug for rule in rules}):
            raise ConfigError(f"unknown rule {slug!r}", where=f"check.severity.{slug}", do=did_you_mean(slug, known))
    index = SourceIndex(module, Sources(source_root), own_packages(module))
    observer = Observer(module, [example_inputs, *probes], index)
    observations = observer.observe()
    subject = Subject(
        module=module,
        example=example_inputs,
        probes=tuple(probes),
        dims=dict(dims or {}),
        observations=observations,
        index=index,
        foreign=foreign_calls(index, observer.log.marks()),
        effect=observer.effect,
        seed_matters=observer.seed_matters,
    )
    findings = _not_ignored(_found(subject, rules), index.sources, severity)
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


def _not_ignored(found: Iterable[Finding], sources: Sources, severity: Mapping[str, str]) -> list[Finding]:
    """The findings with the severities that the configuration gives them, without those that a comment on their line
    drops; a comment without a reason is a finding itself."""
    kept: list[Finding] = []
    for finding in found:
        file = sources.by_path(finding.path)
        ignore = file.ignores.get(finding.line) if file is not None else None
        if ignore is None or finding.slug not in ignore.slugs:
            kept += _weighed(finding, severity)
        elif not ignore.reason:
            message = f"{finding.slug} is ignored without a reason"
            note = Finding(UNEXPLAINED, "note", finding.path, finding.line, ignore.column, message, "static source")
            kept += _weighed(note, severity)
    return kept


def _weighed(finding: Finding, severity: Mapping[str, str]) -> list[Finding]:
    wanted = severity.get(finding.slug, finding.severity)
    return [] if wanted == "off" else [dataclasses.replace(finding, severity=cast(Severity, wanted))]


def _lines(sources: Sources, path: str) -> tuple[str, ...]:
    file = sources.by_path(path)
    return tuple(file.lines) if file is not None else ()
