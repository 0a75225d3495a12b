"""A builder that crashes or is killed ends itself alone: its fate is told, and nothing is half written."""

from __future__ import annotations

import pytest
import yaml

from tests.pipeline.conftest import Project

PLUGIN = """
import os, signal

from qntz import hookimpl


class Fragile:
    name = "fragile"

    def version(self):
        return "1"

    def refusal(self, config, precision):
        return None

    def why_not_run(self, config):
        return "it builds nothing"

    def build(self, onnx_path, inputs, config, progress):
        os.kill(os.getpid(), signal.{signal})

    def load(self, plan, config):
        raise NotImplementedError


@hookimpl
def qntz_backends():
    yield Fragile()
"""


@pytest.mark.parametrize(
    ("signal", "more"), [("SIGABRT", ""), ("SIGSEGV", ""), ("SIGKILL", " It may have run out of memory.")]
)
def test_a_builder_that_ends_is_told_in_one_line(small: Project, signal: str, more: str) -> None:
    before = (small.path / "params.yaml").read_text()
    plugin = small.path / "plugins" / "fragile.py"
    engines = {"digits-fp32": {"model": "digits", "engine": {"backend": "fragile"}}}
    try:
        plugin.write_text(PLUGIN.replace("{signal}", signal))
        small.params(yaml.safe_dump({"models": {"digits": {}}, "engines": engines}))
        done = small.run("dvc", "repro", "engine@digits-fp32")
        assert done.returncode != 0
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert line == (
            "error: engine digits-fp32: build/models/digits/engines/digits-fp32/quantized.onnx: the builder ended:"
            f" signal {signal}. Nothing was kept of it.{more} Build it alone, with less workspace, or report it to fragile."
        )
        assert "Traceback" not in done.stderr
        folder = small.path / "build/models/digits/engines/digits-fp32"
        assert not [
            path for path in folder.iterdir() if path.name.startswith((".model", "model.engine", "engine.json"))
        ]
    finally:
        plugin.unlink()
        small.params(before)
        small.repro()
