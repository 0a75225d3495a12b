"""Replaces submodules on a copy of the model, and proves each on the inputs that the original really got."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from qntz.compare import relative_error
from qntz.errors import PluginError, RewriteError, did_you_mean, one_line
from qntz.model import named_outputs, tensors
from qntz.records import Arrays, ModuleRewrite, Provided, RewriteProof


def rewritten(
    module: torch.nn.Module,
    rewrites: Sequence[Provided],
    probes: Sequence[Arrays],
    order: Sequence[str],
    *,
    require: Sequence[str] = (),
    forbid: Sequence[str] = (),
) -> tuple[torch.nn.Module, list[RewriteProof]]:
    """A copy of the model with every matching submodule replaced, and a proof for each rewrite. `module` is unchanged.

    Args:
        rewrites: `ModuleRewrite` records with their providers, in the order in which they apply.
        probes: inputs by name; each replacement is run on what the original submodule gets when the model runs them.
        order: the input names in the order of forward's parameters.
        require, forbid: names of rewrites that must fire, and that must not be applied.

    Raises:
        RewriteError: a required rewrite is unknown or did not fire, or a replacement's output differs.
        PluginError: a rewrite raises.
    """
    names = [provided.record.name for provided in rewrites]
    for name in (*require, *forbid):
        if name not in names:
            raise RewriteError(f"no module rewrite {name!r}", where="torchscript", do=did_you_mean(name, names))
    result, proofs = module, []
    for provided in rewrites:
        rewrite: ModuleRewrite = provided.record
        if rewrite.name in forbid:
            proofs.append(RewriteProof(rewrite.name, provided.provider, (), None, rewrite.tolerance, "forbidden"))
            continue
        places = _places(result, provided)
        if places:
            result = copy.deepcopy(result) if result is module else result
            worst = _replace(result, places, provided, probes, order)
            proofs.append(RewriteProof(rewrite.name, provided.provider, tuple(places), worst, rewrite.tolerance))
        elif rewrite.name in require:
            raise RewriteError(
                f"rewrite {rewrite.name!r} is required and did not fire",
                where=provided.provider,
                why="no submodule matches",
                do="Check the rewrite's match, or take it out of torchscript.require.",
            )
        else:
            proofs.append(
                RewriteProof(rewrite.name, provided.provider, (), None, rewrite.tolerance, "no submodule matches")
            )
    return result, proofs


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


def _replace(
    module: torch.nn.Module, places: Sequence[str], provided: Provided, probes: Sequence[Arrays], order: Sequence[str]
) -> float:
    """Replaces in place; returns the worst error of the replacements on their recorded inputs."""
    rewrite: ModuleRewrite = provided.record
    calls = _recorded_calls(module, places, probes, order)
    replacements: dict[int, torch.nn.Module] = {}
    worst = 0.0
    for path in places:
        original = module.get_submodule(path)
        if id(original) not in replacements:
            try:
                replacements[id(original)] = rewrite.apply(original).eval()
            except Exception as error:
                raise PluginError(
                    f"rewrite {rewrite.name!r} fails", where=f"{provided.provider} at {path}", why=one_line(error)
                ) from error
        error = _worst_error(replacements[id(original)], calls[path], rewrite.name, path)
        if not error <= rewrite.tolerance:
            raise RewriteError(
                f"rewrite {rewrite.name!r} changes what {path} computes",
                where=provided.provider,
                why=f"its output is off by {error:.3g} of the largest magnitude (tolerance {rewrite.tolerance:g})",
                do="Repair the rewrite, or name it in torchscript.forbid.",
            )
        worst = max(worst, error)
    for path in places:
        _set(module, path, replacements[id(module.get_submodule(path))])
    return worst


def _set(module: torch.nn.Module, path: str, replacement: torch.nn.Module) -> None:
    if not path:
        raise RewriteError(
            "a rewrite matches the whole model", do="Match a submodule; rewrite the model in its factory."
        )
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, replacement)


def _recorded_calls(
    module: torch.nn.Module, places: Sequence[str], probes: Sequence[Arrays], order: Sequence[str]
) -> dict[str, list[tuple[Any, Any, Any]]]:
    """For each place the (arguments, keyword arguments, output) of every call while the model runs the probes."""
    calls: dict[str, list[tuple[Any, Any, Any]]] = {path: [] for path in places}

    def recorder(path: str) -> Any:
        def record(_: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls[path].append(copy.deepcopy((args, kwargs, output)))

        return record

    handles = [module.get_submodule(p).register_forward_hook(recorder(p), with_kwargs=True) for p in places]
    try:
        with torch.no_grad():
            for probe in probes:
                module(*tensors(probe, order))
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _worst_error(replacement: torch.nn.Module, calls: Sequence[tuple[Any, Any, Any]], name: str, path: str) -> float:
    if not calls:
        raise RewriteError(
            f"rewrite {name!r} cannot be proven", where=path, why="no probe reaches this submodule", do="Add probes."
        )
    worst = 0.0
    for args, kwargs, output in calls:
        try:
            with torch.no_grad():
                given = named_outputs(replacement(*args, **kwargs))
        except Exception as error:
            raise PluginError(
                f"the replacement of rewrite {name!r} does not take what {path} takes", why=one_line(error)
            ) from error
        for key, wanted in named_outputs(output).items():
            worst = max(worst, relative_error(given[key].numpy(), wanted.numpy()) if key in given else float("inf"))
    return worst
