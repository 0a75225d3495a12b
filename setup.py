"""Puts the files that `qntz init` writes into the wheel and the sdist; everything else stands in pyproject.toml.

They lie at the root of the repository, outside of the package, and are copied to qntz/scaffold/files when a wheel is
built. An editable installation takes them from where they are.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build

ROOT = Path(__file__).parent
FILES = "qntz/scaffold/files"


def _shipped() -> list[str]:
    """The files that the table names, relative to the root; the package itself is not imported: it may miss what it
    needs where a wheel is built."""
    spec = importlib.util.spec_from_file_location("table", ROOT / "qntz" / "scaffold" / "table.py")
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    return table.all_files(ROOT)


class BuildScaffold(Command):
    """Copies the files below the package; setuptools' protocol of a sub-command of `build`."""

    description = "the files of `qntz init`"
    user_options = ()

    def initialize_options(self) -> None:
        self.build_lib, self.editable_mode = None, False

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def get_output_mapping(self) -> dict[str, str]:
        return {} if self.editable_mode else {f"{self.build_lib}/{FILES}/{name}": name for name in _shipped()}

    def get_outputs(self) -> list[str]:
        return list(self.get_output_mapping())

    def get_source_files(self) -> list[str]:
        return _shipped()

    def run(self) -> None:
        for target, source in self.get_output_mapping().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(str(ROOT / source), target, preserve_mode=False)


class Build(build):
    sub_commands = (*build.sub_commands, ("build_scaffold", None))


setup(cmdclass={"build": Build, "build_scaffold": BuildScaffold})
