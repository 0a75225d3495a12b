"""Makes the models of this folder importable as the package `check_models`, and reads what they expect."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAME = "check_models"
EXPECT = re.compile(r"expect(-below)?: ([\w=, -]+)$")


def _package():
    spec = importlib.util.spec_from_file_location(NAME, HERE / "models" / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)


_package()


@pytest.fixture
def rules():
    from qntz.plugins import load

    return list(load(HERE).records("qntz_rules").values())


@pytest.fixture
def check(rules):
    """Checks a model of the folder by its file's name; returns the report."""
    import importlib

    import torch

    from qntz.check import check_model

    def run(name, **options):
        torch.manual_seed(0)
        module, example, probes = importlib.import_module(f"{NAME}.{name}").make()
        return check_model(module, example, probes, **{"source_root": HERE, "rules": rules, **options})

    return run


@pytest.fixture
def expected():
    """The findings that the comments of some files announce: (path, line, slug, severity), sorted."""

    def read(*names):
        found = []
        for name in names:
            path = HERE / "models" / f"{name}.py"
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                match = EXPECT.search(line)
                for one in match.group(2).split(",") if match else ():
                    slug, severity = one.strip().split("=")
                    found.append((f"models/{name}.py", number + bool(match.group(1)), slug, severity))
        return sorted(found)

    return read
