"""What is written between compose and the end of a stage: the stage refuses, and keeps nothing under a wrong key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qntz.compose import compose
from qntz.errors import ArtifactError
from qntz.watch import require_unchanged

MODELS = ("digits", "rows")
DO = "Nothing is kept of this stage. Run `dvc repro` again."


def changed(project: Path, stage: str) -> str:
    """What a stage says; "" where it goes on."""
    try:
        require_unchanged(project, stage)
    except ArtifactError as error:
        return str(error)
    return ""


STAGES = ("check", "torchscript", "export", "simplify", "calibrate", "report")


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        ("examples/digits/model.py", {"check@digits", "torchscript@digits"}),
        ("examples/digits/weights.safetensors", {"check@digits", "torchscript@digits"}),
        # of a plugin each stage asks whether it has a hook for it
        ("plugins/small_determinant.py", {f"{stage}@{model}" for stage in STAGES for model in MODELS}),
        ("conf/model/digits.yaml", set()),  # its values are in what is composed
    ],
)
def test_the_stages_that_read_a_file_refuse_when_it_was_written(project: Path, path: str, stages: set[str]) -> None:
    compose(project)
    file, names = project / path, [f"{stage}@{model}" for stage in STAGES for model in MODELS]
    data, status = file.read_bytes(), file.stat()
    assert not any(changed(project, name) for name in names)
    file.write_bytes(data)  # the same content by now: another may have been read in between
    refused = {name: told for name in names if (told := changed(project, name))}
    assert refused == dict.fromkeys(stages, f"{path}: changed after it was composed. {DO}")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    file.chmod(0o600)  # is no change of its content
    assert not any(changed(project, name) for name in names)


def test_files_that_come_and_go(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data/0.npy").write_bytes(b"0")
    entry = yaml.safe_load((project / "params.yaml").read_text())
    extra = ["notes/*.txt", "absent.txt"]
    entry["models"]["digits"] = {
        "model": {"data": {"test": {"source": "npz", "folder": "data"}}, "extra_inputs": extra}
    }
    (project / "params.yaml").write_text(yaml.safe_dump(entry))
    compose(project)
    assert changed(project, "torchscript@digits") == ""
    for path in ("data/1.npy", "notes/a.txt", "absent.txt"):
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).write_bytes(b"1")
        assert changed(project, "torchscript@digits")
        (project / path).unlink()
        assert changed(project, "torchscript@digits") == ""
    (project / "data/0.npy").unlink()
    assert changed(project, "torchscript@digits")
    assert changed(project, "simplify@digits") == ""


def write(project: Path, path: str, text: str) -> None:
    (project / path).parent.mkdir(exist_ok=True)
    (project / path).write_text(text)


def known(project: Path, *stages: str) -> str:
    """What such a stage says of a process that has imported nets/one.py of the project; "" where it goes on."""
    code = (
        "import importlib, sys, tempfile, types\n"
        "class Stub(types.ModuleType):\n"
        "    def __getattr__(self, name): raise ImportError('install it')\n"
        "sys.modules['stub'] = Stub('stub')\n"
        "folder = tempfile.mkdtemp()\nopen(folder + '/compiled.py', 'w').close()\n"
        "sys.path.append(folder)\nimport compiled\nsys.path.remove(folder)\n"
        "from pathlib import Path\nfrom qntz.watch import ArtifactError, require_known\n"
        "importlib.import_module('nets.one')\n"
        "try: require_known(Path.cwd(), sys.argv[1:])\nexcept ArtifactError as error: print(error)"
    )
    command = [sys.executable, "-c", code, *stages]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout.strip()


def test_what_was_imported_by_no_statement_is_refused(project: Path) -> None:
    write(project, "nets/one.py", "A = 1\n")
    compose(project)
    assert known(project, "torchscript@digits") == (
        "nets/one.py: was imported and is in no key, so that nobody would see it change: no import statement that "
        "compose can follow leads to it. Import it by a statement from the root, or name it in the model's "
        "`extra_inputs: [nets/one.py]`."
    )
    assert known(project, "torchscript@other") == ""  # was not composed
    conf = project / "conf/model/digits.yaml"
    text = conf.read_text()
    for name in ("nets/one.py", "nets"):
        conf.write_text(f"{text}extra_inputs: [{name}]\n")
        compose(project)
        assert known(project, "torchscript@digits") == ""
    conf.write_text(text)
    with (project / "examples/digits/model.py").open("a") as file:
        file.write("\nimport nets.one\n")
    compose(project)
    assert known(project, "torchscript@digits") == ""
    assert known(project, "export@digits", "torchscript@digits") == ""
    assert known(project, "export@digits").startswith("nets/one.py: was imported")
    write(project, "nets/one.py", "import importlib\nimportlib.import_module('nets.' + 'two')\n")
    write(project, "nets/two.py", "A = 1\n")
    compose(project)
    told = known(project, "export@digits")
    assert told.startswith(
        "nets/one.py: was imported and is in no key, so that nobody would see it change (as were 1 more)"
    )
    assert told.endswith("`extra_inputs: [nets]`.")
    assert known(project, "torchscript@digits").startswith("nets/two.py: was imported")


def test_what_python_and_editors_leave_behind_is_nothing(project: Path) -> None:
    compose(project)
    for path in ("plugins/__pycache__/a.pyc", "examples/digits/__pycache__/b.pyc", "plugins/.c.py.swp"):
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).write_bytes(b"")
    assert changed(project, "torchscript@digits") == ""
    (project / "plugins/another.py").write_text("")
    assert changed(project, "torchscript@digits") == f"plugins/*.py: changed after it was composed. {DO}"
