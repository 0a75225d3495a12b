"""`qntz init` from a built wheel, in an environment of its own: the pipeline runs, and once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from qntz.scaffold import table
from tests.init.conftest import GIT, repository
from tests.pipeline.conftest import ROOT, Project, new_project

pytestmark = pytest.mark.slow
INSIDE = "qntz/scaffold/files/"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel and an sdist of what git has here, the wheel made of the sdist."""
    source, to = new_project(tmp_path_factory.mktemp("source")).path, tmp_path_factory.mktemp("built")
    # CI files may come with this repository or not; the wheel has them where it does
    (source / ".gitlab-ci.yml").write_text("stages: [test]\n")
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(to)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (sdist,) = to.glob("*.tar.gz")
    options = ("-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(to))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(sdist)], check=True, cwd=to)
    (wheel,) = to.glob("*.whl")
    return wheel, sdist


@pytest.fixture(scope="session")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of a fresh environment with the wheel; everything else is linked to from this one."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = Path(subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip())
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "qntz" not in path.name and not path.name.startswith("__editable__"):
            (site / path.name).symlink_to(path)
    options = ("--python", str(python), "install", "-q", "--no-deps", "--no-index", str(built[0]))
    subprocess.run([sys.executable, "-m", "pip", *options], check=True)
    (folder / "bin/dvc").write_text(f"#!{python}\nimport sys\nfrom dvc.cli import main\nsys.exit(main())\n")
    (folder / "bin/dvc").chmod(0o755)
    return folder / "bin"


def project_of(path: Path, tools: Path) -> Project:
    """A folder where the tools of that environment come first, and nothing of this repository is on Python's path."""

    class Elsewhere(Project):
        def env(self, extra: object = None) -> dict[str, str]:
            kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
            return {**kept, "PATH": f"{tools}:{os.environ['PATH']}"}

    path.mkdir(exist_ok=True)
    return Elsewhere(path)


def test_wheel_and_sdist_have_the_files_of_the_table(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    named = {*table.all_files(ROOT), ".gitlab-ci.yml"}
    with zipfile.ZipFile(wheel) as archive:
        inside = {name.removeprefix(INSIDE): archive.read(name) for name in archive.namelist() if INSIDE in name}
    assert inside.keys() == named
    for name in named - {".gitlab-ci.yml"}:
        assert inside[name] == (ROOT / name).read_bytes(), name
    with tarfile.open(sdist) as archive:
        listed = {name.partition("/")[2] for name in archive.getnames()}
    assert named <= listed
    assert "qntz/scaffold/table.py" in listed


def test_every_file_of_the_pipeline_is_in_the_table() -> None:
    """What stages, conf/ and dvc.yaml are made of; of conf/model/ the example's alone."""
    listed = subprocess.run(
        ["git", "ls-files", "conf", "stages", ".dvc/plots"], cwd=ROOT, capture_output=True, text=True
    )
    wanted = {name for name in listed.stdout.split() if not name.startswith("conf/model/")}
    assert wanted <= set(table.all_files(ROOT))


def test_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    project = project_of(tmp_path / "mine", installed)
    done = project.run("qntz", "init")
    assert done.returncode == 0, done.stderr
    assert (project.path / ".gitlab-ci.yml").is_file()
    ran = project.repro()
    assert {"check@digits", "engine@digits-int8", "verify@digits-fp32", "report@digits"} <= ran
    metrics = json.loads((project.path / "build/models/digits/engines/digits-int8/metrics.json").read_text())
    assert metrics["accuracy"] > 0.99
    assert project.repro() == set()

    # the installed code counts, although it lies in site-packages: a docstring does not, a statement does
    simplify = next(installed.parent.glob("lib/*/site-packages/qntz/simplify.py"))
    text = simplify.read_text()
    simplify.write_text(text.replace('"""', '"""Another word. ', 1))
    assert project.repro() == set()
    simplify.write_text(f"{text}\n\nADDED = 1\n")
    try:
        # what it writes is the same, so that nothing after it runs
        assert project.repro() == {"simplify@digits"}
    finally:
        simplify.write_text(text)

    doctor = project.run("qntz", "doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert doctor.stdout.endswith("A default pipeline can work here.\n")
    told = json.loads(project.run("qntz", "doctor", "--json").stdout)
    (python,) = (one for one in told["findings"] if one["name"] == "python on PATH")
    assert python["value"] == f"{installed / 'python'}, of this environment"


def test_a_repository_of_its_own(installed: Path, tmp_path: Path) -> None:
    project = project_of(repository(tmp_path / "theirs"), installed)
    code = (
        "from safetensors.torch import save_file; from mypkg.net import TinyNet; "
        "save_file(TinyNet(16).state_dict(), 'mypkg/tiny.safetensors')"
    )
    assert project.run("python", "-c", code).returncode == 0
    given = ("--arg", "width=16", "--input", "image=float32:batch,3,32,32", "--weights", "mypkg/tiny.safetensors")
    done = project.run("qntz", "init", "--model", "mypkg.net:TinyNet", "--name", "tiny", *given)
    assert done.returncode == 0, done.stderr
    project.repro()
    assert (project.path / "build/models/tiny/engines/tiny-fp16/model.engine").stat().st_size > 0
    assert project.repro() == set()
    for command in (("add", "-A"), ("commit", "-q", "-m", "engines")):
        assert project.run(*GIT, *command).returncode == 0
    assert project.run("git", "status", "--porcelain").stdout == ""
    project.edit("mypkg/layers.py", "nn.ReLU()", "nn.ReLU6()")  # which the model's module imports
    assert {"check@tiny", "torchscript@tiny", "export@tiny", "verify@tiny-fp16"} <= project.repro()


def test_a_model_without_weights(installed: Path, tmp_path: Path) -> None:
    """compose waits for nothing; int8 as the comments of the written files say."""
    project = project_of(repository(tmp_path / "theirs"), installed)
    given = ("--arg", "width=8", "--input", "image=float32:batch,3,16,16:0,1", "--dim", "batch=1,2,8", "--name", "tiny")
    assert project.run("qntz", "init", "--model", "mypkg.net:TinyNet", *given).returncode == 0
    code = (
        "import numpy as np; np.savez('images.npz', image=np.random.default_rng(0).random((32, 3, 16, 16), np.float32))"
    )
    assert project.run("python", "-c", code).returncode == 0
    conf = (project.path / "conf/model/tiny.yaml").read_text().replace("data/train.npz, count: 256", "images.npz")
    kept = re.sub("^# (data:|  calibrate:)", r"\1", conf, flags=re.MULTILINE)
    (project.path / "conf/model/tiny.yaml").write_text(kept)
    project.edit("params.yaml", "  # tiny-int8", "  tiny-int8")
    assert {"quantize@tiny-int8", "verify@tiny-int8"} <= project.repro("verify@tiny-int8")


def test_a_folder_below_a_repository_of_dvc(installed: Path, tmp_path: Path) -> None:
    """One pipeline of several: DVC's root lies above, and `dvc repro` runs in the folder."""
    top = project_of(repository(tmp_path / "theirs"), installed)
    assert top.dvc("init", "-q").returncode == 0
    (top.path / "dvc.yaml").write_text("stages:\n  theirs:\n    cmd: echo 1 > out\n    outs: [out]\n")
    assert "dvc.yaml is in the way" in top.run("qntz", "init").stderr
    assert top.run("qntz", "init", "engines").returncode == 0
    below = project_of(top.path / "engines", installed)
    assert "verify@digits-fp16" in below.repro("verify@digits-fp16")
    assert below.repro("verify@digits-fp16") == set()
    assert "engine_kb" in below.dvc("metrics", "show").stdout
