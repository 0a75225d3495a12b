"""The check of a model as its configuration describes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qntz.check.model import check_model
from qntz.check.report import CheckReport
from qntz.model import in_order, load_model
from qntz.plugins import Plugins
from qntz.probes import probes_for
from qntz.rewrite import REWRITES


def check_configured(config: Any, root: Path, plugins: Plugins, loaded: Callable[[], None]) -> CheckReport:
    """Loads the model that the section `model` describes and checks it for the route that it is to be captured by.

    Args:
        config: the sections model, check, torchscript.method and export.opset. root: the project's. plugins: give the
            rules, the symbolics that the export has, and the rewrites of the capture. loaded: called when the model is
            loaded, before it runs.

    Raises:
        What `check_model` raises, and ModelError where the model cannot be loaded.
    """
    model = config.model
    module = load_model(model.factory, model.weights, model.torchscript or model.program, root, model.trusted)
    probes = probes_for(model.probes, model.inputs, model.dims, root)
    order = in_order(module, list(model.inputs))  # by name, as all stages bind them
    example, *further = [{name: torch.from_numpy(probe[name]) for name in order} for probe in probes]
    loaded()
    return check_model(
        module,
        example,
        further,
        dims=model.dims,
        source_root=root,
        rules=list(plugins.records("qntz_rules").values()),
        symbolics=plugins.provided("qntz_symbolics", opset=config.export.opset),
        rewrites=[
            one
            for hook in REWRITES
            for one in plugins.provided(hook)
            if one.record.name not in config.torchscript.forbid
        ],
        severity=config.check.severity,
        route=config.torchscript.method,
        opset=config.export.opset,
    )
