"""The command line: `qntz check` and `qntz rule` here, each further command in its own module `qntz.cli_<command>`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qntz import (
    cli_bench,
    cli_doctor,
    cli_init,
    cli_inspect,
    cli_pipelines,
    cli_plugins,
    cli_ranges,
    cli_report,
    cli_repro,
    cli_sensitivity,
    cli_status,
    cli_targets,
    cli_why,
)
from qntz.config import METHODS
from qntz.errors import CheckError, ConfigError, QntzError, UsageError, did_you_mean, one_line
from qntz.guard import guarded

if TYPE_CHECKING:
    from qntz.plugins import Plugins
    from qntz.records import Rule

FURTHER = (
    cli_init,
    cli_doctor,
    cli_status,
    cli_why,
    cli_repro,
    cli_pipelines,
    cli_targets,
    cli_report,
    cli_inspect,
    cli_bench,
    cli_sensitivity,
    cli_ranges,
    cli_plugins,
)
FORMATS = ("text", "json", "sarif", "github")
GIB = 2**30
LIMITS = {"seconds": "--seconds", "memory": "--memory-gib"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 1 for findings at error level or a failure, 2 for wrong usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    passed_on: list[str] = []
    if given[:1] == ["repro"] and "--" in given:  # argparse would mix the options of DVC with its own
        at = given.index("--")
        given, passed_on = given[:at], given[at + 1 :]
    options = _parser().parse_args(given)
    options.passed_on = passed_on
    try:
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except QntzError as error:
        print(f"error: {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"error: {options.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        return 141
    except Exception as error:
        if "QNTZ_DEBUG" in os.environ:
            raise
        told = f"unexpected error, a bug in qntz: {one_line(error, place=True)}. See all of it with QNTZ_DEBUG=1."
        print(f"error: {options.command}: {told}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qntz", description="PyTorch models to TensorRT engines.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="find what stands in the way of capturing a model")
    check.add_argument("target", help="a model of conf/, or a module of Python: pkg/net.py:Net, pkg.net:Net")
    check.add_argument("--example", help="its inputs, where it is none of conf/: pkg/net.py:EXAMPLE")
    check.add_argument("--probes", help="further inputs, a list: pkg/net.py:PROBES")
    check.add_argument("--route", choices=METHODS, default="trace", help="how it is to be captured")
    check.add_argument("--opset", type=int, default=17, help="of the ONNX export (default: 17)")
    check.add_argument("--format", choices=FORMATS, default="text")
    check.add_argument("--seconds", type=_positive, default=600.0, help="that the check may take")
    check.add_argument("--memory-gib", type=_positive, default=8.0, help="that the model may take when it runs")
    check.set_defaults(run=_check)
    rule = commands.add_parser("rule", help="explain a rule, by its code or its slug")
    rule.add_argument("rule", help="QZ012, or captured-device")
    rule.set_defaults(run=_rule)
    for module in FURTHER:
        module.add_parser(commands)
    return parser


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def _check(options: argparse.Namespace) -> int:
    from qntz.config import ExportConfig

    root = Path.cwd()
    sys.path.insert(0, str(root))
    configured = ":" not in options.target
    if configured and (options.example or options.probes):
        raise UsageError("--example and --probes belong to a target pkg/net.py:Net", where=options.target)
    if not configured and not options.example:
        raise UsageError("no example", where=options.target, do="Add --example pkg/net.py:EXAMPLE.")
    ExportConfig(opset=options.opset)  # refuses what torch does not export to
    work = _of_conf(options, root) if configured else _of_python(options, root)

    def shown(loaded: Callable[[], None]) -> tuple[str, int]:
        from qntz.check import as_github, as_json, as_sarif, render

        report, rules = work(loaded)
        if options.format == "json":
            return json.dumps(as_json(report), indent=2), len(report.errors)
        if options.format == "sarif":
            return json.dumps(as_sarif(report, rules), indent=2), len(report.errors)
        if options.format == "github":
            return as_github(report, rules), len(report.errors)
        return render(report, rules, root).rstrip("\n"), len(report.errors)

    text, errors = guarded(shown, seconds=options.seconds, memory=int(options.memory_gib * GIB), limits=LIMITS)
    if text:
        print(text)
    return 1 if errors else 0


def _plugins(root: Path) -> Plugins:
    from qntz.plugins import load

    return load(root, "check")


def _rules(plugins: Plugins) -> list[Rule]:
    return list(plugins.records("qntz_rules").values())


def _of_conf(options: argparse.Namespace, root: Path) -> Callable[[Callable[[], None]], Any]:
    from qntz.compose import composed_entries
    from qntz.config import granted

    result = composed_entries(root)
    name = options.target
    if ("models", name) in result.errors:
        raise result.errors["models", name]
    if name not in result.models:
        raise ConfigError(f"no model {name!r}", where="params.yaml", do=did_you_mean(name, result.models))
    config = granted("check", result.models[name])

    def work(loaded: Callable[[], None]) -> Any:
        from qntz.check import check_configured

        plugins = _plugins(root)
        return check_configured(config, root, plugins, loaded), _rules(plugins)

    return work


def _of_python(options: argparse.Namespace, root: Path) -> Callable[[Callable[[], None]], Any]:
    def work(loaded: Callable[[], None]) -> Any:
        from qntz.check import check_model

        plugins = _plugins(root)
        module = _module(_named(options.target, root), options.target)
        example = _inputs(_named(options.example, root), options.example)
        given = _made(_named(options.probes, root), options.probes) if options.probes else []
        if not isinstance(given, (list, tuple)):
            raise UsageError(f"is {_a(given)}", where=options.probes, do="Give a list of inputs.")
        probes = [_inputs(probe, options.probes) for probe in given]
        loaded()
        rules, symbolics = _rules(plugins), plugins.provided("qntz_symbolics", opset=options.opset)
        asked = {"route": options.route, "opset": options.opset}
        report = check_model(module, example, probes, source_root=root, rules=rules, symbolics=symbolics, **asked)
        return report, rules

    return work


def _named(target: str, root: Path) -> Any:
    """The object that "path/to/file.py:NAME" or "package.module:NAME" stands for."""
    source, _, name = target.rpartition(":")
    if not source or not name:
        raise UsageError(f"{target!r} names no object of a module", do="Write pkg/net.py:NAME or pkg.net:NAME.")
    module_name = source
    if source.endswith(".py"):
        path = (root / source).resolve()
        if not path.is_file():
            raise UsageError("no such file", where=source)
        if not path.is_relative_to(root):
            sys.path.insert(0, str(path.parent))
        inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        module_name = ".".join(inside.with_suffix("").parts)
    try:
        found = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the module is the user's: it may do anything while it is imported
        raise CheckError("cannot be imported", where=source, why=one_line(error, place=True)) from error
    if not hasattr(found, name):
        raise UsageError(f"no {name!r}", where=source, do=did_you_mean(name, [n for n in vars(found) if n[0] != "_"]))
    return getattr(found, name)


def _module(found: Any, target: str) -> Any:
    """A live module: a class is made without arguments and put in evaluation mode, a function called."""
    import torch

    if isinstance(found, torch.nn.Module):
        return found
    if not callable(found):
        raise UsageError(f"is no module but {_a(found)}", where=target)
    module = _made(found, target)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"makes no module but {_a(module)}", where=target)
    return module.eval() if isinstance(found, type) else module


def _made(found: Any, target: str) -> Any:
    """What a function of the user's returns; anything else as it is."""
    import torch

    if not callable(found) or isinstance(found, torch.Tensor):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise CheckError("cannot be made", where=target, why=one_line(error, place=True)) from error


def _inputs(found: Any, target: str) -> Any:
    """Inputs as `check_model` takes them: a mapping by name, or a tuple."""
    import torch

    found = _made(found, target)
    if isinstance(found, torch.Tensor):
        return (found,)
    if not isinstance(found, (dict, tuple, list)):
        raise UsageError(f"is {_a(found)}", where=target, do="Give tensors: a dict by name, or a tuple.")
    return found


def _a(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _rule(options: argparse.Namespace) -> int:
    rules = _rules(_plugins(Path.cwd()))
    wanted = options.rule.lower()
    found = next((rule for rule in rules if wanted in (rule.code.lower(), rule.slug)), None)
    if found is None:
        raise UsageError(
            f"no rule {options.rule!r}", do=did_you_mean(options.rule, [n for r in rules for n in (r.code, r.slug)])
        )
    print(f"{found.code} {found.slug} ({found.severity}; {', '.join(found.routes)})")
    print(f"  what: {found.what}\n  why:  {found.why}\n  fix:  {found.fix}")
    if found.link:
        print(f"  link: {found.link}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
