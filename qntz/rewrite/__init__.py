"""Rewrites submodules on a copy of the model, and functions while it is captured; each is proven on the model's runs.

A rewrite that does not apply (nothing matches, another version, NotImplementedError) is told with its reason; one that
computes something else is an error, where qntz does not ship it: then it is left out, and told.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from qntz.eager import Eager, fresh
from qntz.errors import ModelError, PluginError, RewriteError, did_you_mean, one_line
from qntz.model import call, evaluated
from qntz.records import Arrays, FunctionRewrite, ModuleRewrite, Provided, RewriteProof
from qntz.rewrite.functions import Calls, difference, recorded, replaced
from qntz.versions import applicable

REWRITES = ("qntz_module_rewrites", "qntz_function_rewrites")
"""The hooks that give the rewrites, in the order in which they apply."""
UNMATCHED, UNCALLED = "no submodule matches", "the model calls none of its functions"


@dataclass(frozen=True)
class Rewritten:
    """A model after its rewrites.

    Attributes:
        module: a copy of the model where a submodule was replaced, else the model. functions: the function rewrites
        that are to be in force while it is captured. proofs: of every rewrite.
    """

    module: torch.nn.Module
    functions: tuple[Provided, ...] = ()
    proofs: tuple[RewriteProof, ...] = ()

    def in_force(self) -> AbstractContextManager[None]:
        """Keeps the functions replaced."""
        return replaced(self.functions)


def rewritten(
    module: torch.nn.Module,
    rewrites: Sequence[Provided],
    probes: Sequence[Arrays],
    order: Sequence[str],
    *,
    opset: int = 20,
    require: Sequence[str] = (),
    forbid: Sequence[str] = (),
    called: Collection[str] | None = None,
) -> Rewritten:
    """A copy of the model with every matching submodule replaced, the functions to replace, and a proof for each
    rewrite. `module` is unchanged.

    Args:
        rewrites: `ModuleRewrite` and `FunctionRewrite` records with their providers; of each kind in this order, the
        modules first.
        probes: inputs by name; each replacement is run on what the original gets when the model runs them.
        order: the input names in the order of forward's parameters. opset: of the export.
        require, forbid: names of rewrites that must fire, and that must not be applied.
        called: of those whose functions the model, as it is, calls; None where that is not known.

    Raises:
        RewriteError: a required rewrite is unknown or did not fire, or a replacement's output differs.
        PluginError: a rewrite raises.
    """
    names = [provided.record.name for provided in rewrites]
    for name in (*require, *forbid):
        if name not in names:
            raise RewriteError(f"no rewrite {name!r}", where="torchscript", do=did_you_mean(name, names))
    with evaluated(module):
        return _Rewriting(module, probes, order, require).after(rewrites, opset, forbid, called)


def functions_of(rewrites: Sequence[Provided], opset: int, forbid: Sequence[str] = ()) -> list[Provided]:
    """The rewrites of functions that apply."""
    given = (one for one in rewrites if isinstance(one.record, FunctionRewrite) and one.record.name not in forbid)
    return applicable(given, opset)[0]


@dataclass
class _Rewriting:
    """One model's rewriting. functions: the rewrites of functions that apply. fired: what did, with places and error,
    and reasons why others did not, by name."""

    module: torch.nn.Module
    probes: Sequence[Arrays]
    order: Sequence[str]
    require: Sequence[str]
    functions: Sequence[Provided] = ()
    fired: dict[str, tuple[tuple[str, ...], float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def after(
        self, rewrites: Sequence[Provided], opset: int, forbid: Sequence[str], called: Collection[str] | None
    ) -> Rewritten:
        self.reasons |= dict.fromkeys(forbid, "forbidden")
        fit, unfit = applicable((one for one in rewrites if one.record.name not in forbid), opset)
        self.reasons |= unfit
        original = self.module
        self.functions = [one for one in fit if isinstance(one.record, FunctionRewrite)]
        for provided in fit:
            if isinstance(provided.record, ModuleRewrite):
                self._held_to(provided, partial(self._replace, provided, original))
        if called is not None and self.module is original:
            uncalled = [one.record.name for one in self.functions if one.record.name not in called]
            self.reasons |= dict.fromkeys(uncalled, UNCALLED)
            self.functions = [one for one in self.functions if one.record.name in called]
            functions = self._called(self.functions, self.probes)
        else:
            functions = self._called(self.functions, self.probes[:1])
        for provided in rewrites:
            name = provided.record.name
            if name in self.require and name not in self.fired:
                raise RewriteError(
                    f"rewrite {name!r} is required and did not fire",
                    where=provided.provider,
                    why=self.reasons[name],
                    do="Check the rewrite's match, or take it out of torchscript.require.",
                )
        return Rewritten(self.module, tuple(functions), tuple(self._proof(one) for one in rewrites))

    def _proof(self, provided: Provided) -> RewriteProof:
        record = provided.record
        places, worst = self.fired.get(record.name, ((), None))
        kind = "function" if isinstance(record, FunctionRewrite) else "module"
        reason = self.reasons.get(record.name, "")
        return RewriteProof(record.name, provided.provider, places, worst, record.tolerance, reason, kind)

    def _held_to(self, provided: Provided, attempt: Callable[[], None]) -> bool:
        """Whether it fired; one that qntz ships, or that declines, may not, with a reason."""
        try:
            attempt()
        except NotImplementedError as error:
            self.reasons[provided.record.name] = f"it declines: {one_line(error)}"
        except (RewriteError, PluginError) as error:
            if not provided.is_builtin:
                raise
            self.reasons[provided.record.name] = f"{error.what}: {error.why}"
        return provided.record.name in self.fired

    def _replace(self, provided: Provided, original: torch.nn.Module) -> None:
        """Replaces the matching submodules, of a copy; raises as `rewritten`, and NotImplementedError."""
        places = _places(self.module, provided)
        if not places:
            self.reasons[provided.record.name] = UNMATCHED
            return
        result = copy.deepcopy(self.module) if self.module is original else self.module
        calls = _recorded_calls(fresh(result), places, self.probes, self.order)
        try:
            made, worst = _replacements(result, places, calls, provided)
        except NotImplementedError:  # perhaps for want of the functions that are replaced with it
            with replaced(self.functions):
                made, worst = _replacements(result, places, calls, provided)
        for path, replacement in made.items():
            result = _set(result, path, replacement)
        self.module = result
        self.fired[provided.record.name] = (tuple(places), worst)

    def _called(self, rewrites: Sequence[Provided], probes: Sequence[Arrays]) -> list[Provided]:
        """Those of the function rewrites that the model calls, and that are right on all probes. probes: those of them
        that it is first run on, to see which it calls."""
        left = list(rewrites)
        while left:
            calls, failed = self._run_with(left, probes)
            used = [one for one in left if calls[one.record.name].places]
            if failed is not None and not used:
                raise failed
            if failed is None and len(used) < len(left):
                self.reasons |= {one.record.name: UNCALLED for one in left if one not in used}
                left = used
            if failed is None and probes is not self.probes:
                probes = self.probes
                continue
            declined = next(
                (one for one in used if not self._held_to(one, partial(self._take, one, calls, failed))), None
            )
            if declined is None:
                break
            self.fired = {name: told for name, told in self.fired.items() if name not in calls}
            left.remove(declined)
        return left

    def _run_with(
        self, rewrites: Sequence[Provided], probes: Sequence[Arrays]
    ) -> tuple[Mapping[str, Calls], Exception | None]:
        """What the calls of a run with the functions replaced show, and what ended it."""
        runner = Eager(self.module, self.order)
        with recorded(rewrites) as calls:
            try:
                for probe in probes:
                    runner.call(probe)
            except ModelError as error:
                return calls, error.__cause__ if isinstance(error.__cause__, Exception) else error
        return calls, None

    def _take(self, provided: Provided, calls: Mapping[str, Calls], failed: Exception | None) -> None:
        record: FunctionRewrite = provided.record
        seen = calls[record.name]
        if isinstance(failed, NotImplementedError):
            raise failed
        if failed is not None:
            raise PluginError(
                f"the model fails with rewrite {record.name!r}", where=provided.provider, why=one_line(failed)
            )
        _require_alike(record, provided.provider, seen.at, seen.worst)
        self.fired[record.name] = (tuple(seen.places), seen.worst)


def is_telling(proof: RewriteProof) -> bool:
    """Whether a reader asks for it: what a plugin did or did not, and of what qntz ships what concerns the model."""
    idle = proof.reason in (UNMATCHED, UNCALLED) or proof.reason.startswith("it is for ")
    return not (idle and Provided(None, proof.provider).is_builtin)


def _require_alike(record: ModuleRewrite | FunctionRewrite, provider: str, at: str, error: float) -> None:
    if not error <= record.tolerance:
        raise RewriteError(
            f"rewrite {record.name!r} changes what {at or 'the model'} computes",
            where=provider,
            why=f"its output is off by {error:.3g} of the largest magnitude (tolerance {record.tolerance:g})",
            do="Repair the rewrite, or name it in torchscript.forbid.",
        )


def _places(module: torch.nn.Module, provided: Provided) -> list[str]:
    """The paths of the matching submodules, outermost only."""
    places: list[str] = []
    for path, submodule in module.named_modules(remove_duplicate=False):
        inside = any(path.startswith(f"{place}." if place else "") for place in places)
        try:
            if not inside and provided.record.match(submodule):
                places.append(path)
        except Exception as error:
            raise PluginError(
                f"rewrite {provided.record.name!r} fails to match", where=provided.provider, why=one_line(error)
            ) from error
    return places


Runs = Sequence[tuple[Any, Any, Any]]
"""Arguments, keyword arguments and output of each call."""


def _replacements(
    module: torch.nn.Module, places: Sequence[str], calls: Mapping[str, Runs], provided: Provided
) -> tuple[dict[str, torch.nn.Module], float]:
    """The replacements by place, one for one submodule, and the worst error on their recorded inputs."""
    rewrite: ModuleRewrite = provided.record
    by_original: dict[int, torch.nn.Module] = {}
    worst = 0.0
    for path in places:
        original = module.get_submodule(path)
        if id(original) not in by_original:
            try:
                by_original[id(original)] = rewrite.apply(original).eval()
            except NotImplementedError:
                raise
            except Exception as error:
                raise PluginError(
                    f"rewrite {rewrite.name!r} fails", where=f"{provided.provider} at {path}", why=one_line(error)
                ) from error
        error = _worst_error(by_original[id(original)], calls[path], rewrite.name, path)
        _require_alike(rewrite, provided.provider, path, error)
        worst = max(worst, error)
    return {path: by_original[id(module.get_submodule(path))] for path in places}, worst


def _set(module: torch.nn.Module, path: str, replacement: torch.nn.Module) -> torch.nn.Module:
    if not path:
        return replacement
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, replacement)
    return module


def _recorded_calls(
    module: torch.nn.Module, places: Sequence[str], probes: Sequence[Arrays], order: Sequence[str]
) -> dict[str, list[tuple[Any, Any, Any]]]:
    """For each place the (arguments, keyword arguments, output) of every call while the model runs the probes."""
    calls: dict[str, list[tuple[Any, Any, Any]]] = {path: [] for path in places}

    def recorder(path: str) -> tuple[Any, Any]:
        given: list[Any] = []

        def before(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
            given.append(copy.deepcopy((args, kwargs)))  # before: it may write on its inputs

        def after(_: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls[path].append((*given.pop(), copy.deepcopy(output)))

        return before, after

    handles = []
    for path in places:
        before, after = recorder(path)
        handles.append(module.get_submodule(path).register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.get_submodule(path).register_forward_hook(after, with_kwargs=True))
    try:
        for probe in probes:
            call(module, probe, order)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _worst_error(replacement: torch.nn.Module, calls: Runs, name: str, path: str) -> float:
    if not calls:
        raise RewriteError(
            f"rewrite {name!r} cannot be proven", where=path, why="no probe reaches this submodule", do="Add probes."
        )
    worst = 0.0
    for args, kwargs, output in calls:
        try:
            with torch.no_grad():
                given = replacement(*args, **kwargs)
        except NotImplementedError:
            raise
        except Exception as error:
            raise PluginError(
                f"the replacement of rewrite {name!r} does not take what {path or 'the model'} takes",
                why=one_line(error),
            ) from error
        worst = max(worst, difference(given, output))
    return worst
