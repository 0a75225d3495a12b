"""`qntz doctor`: what it finds, of a sound installation and of broken ones, which must not break it too."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qntz import doctor, machine
from qntz.cli import main
from qntz.config import READS
from qntz.doctor import Finding, backends, packages, pipeline
from qntz.doctor import project as project_of
from qntz.doctor.child import Failed, ask
from qntz.environment import other_python

SOUND = [
    Finding("project", "dvc.yaml", "names every key that a stage may read"),
    Finding("project", "stages/", "as this qntz ships them"),
]


# what is asked in a process of its own


def test_an_answer_is_told_from_what_else_is_printed() -> None:
    assert ask("print('noise'); answer([1, None, 'two']); print('more')") == [1, None, "two"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os.abort()", "the process crashed: SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "the process crashed: SIGSEGV"),
        ("answer(1); import os; os._exit(3)", "the process ended with exit code 3"),
        ("raise ImportError('libgone.so: cannot open')", "ImportError: libgone.so: cannot open"),
        ("import time; time.sleep(60)", "did not end within 1 s"),
    ],
)
def test_what_happens_to_the_process_is_a_sentence(code: str, why: str) -> None:
    with pytest.raises(Failed, match=f"^{re.escape(why)}"):
        ask(code, seconds=1 if "sleep" in code else 60)


def test_what_is_found_holds_no_secret(monkeypatch) -> None:
    """It is pasted into bug reports."""
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    with pytest.raises(Failed) as failed:
        ask("import os; raise RuntimeError(os.environ['HF_TOKEN'])")
    found = Finding("tools", "x", f"does not load: {failed.value}", "broken", "See https://hf_0123456789abcdef@host.")
    assert dataclasses.astuple(found) == (
        "tools",
        "x",
        "does not load: RuntimeError: ***",
        "broken",
        "See https://***@host.",
    )


def test_no_secret_is_printed(project: Path, monkeypatch, capsys) -> None:
    """As a table or as JSON; of a plugin that ends the process with one."""
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    monkeypatch.setenv("PYTHONPATH", str(project))
    (project / "plugins/broken.py").write_text(
        "import os\nos.write(2, f'no access: {os.environ[\"HF_TOKEN\"]}'.encode())\nos._exit(1)\n"
    )
    monkeypatch.chdir(project)
    monkeypatch.setattr(doctor, "findings", lambda root: backends.findings(root, "onnxruntime"))
    for options in ((), ("--json",)):
        assert main(["doctor", *options]) == 1
        said = capsys.readouterr().out
        assert "no access: ***" in " ".join(said.split())
        assert "hf_0123" not in said


# packages


def test_every_distribution_that_qntz_asks_for_is_tried(root: Path) -> None:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    told = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    asked = [
        *told["dependencies"],
        *(one for extra in ("gpu", "hf", "ray") for one in told["optional-dependencies"][extra]),
    ]
    names = {re.match(r"[\w.-]+", one)[0].lower() for one in asked}
    assert names == {*packages.NEEDED, *packages.OPTIONAL}
    assert set(packages.EXTRAS) == {re.match(r"[\w-]+", one)[0] for one in asked[len(told["dependencies"]) :]}
    assert told["requires-python"] == ">=3.10,<3.14"


def tried(name: str, folder: Path, wanted: str = "") -> Finding:
    module = {**packages.NEEDED, **packages.OPTIONAL}[name]
    return packages._finding(name, packages._import(module, folder), wanted, folder)


def test_a_sound_package(tmp_path: Path) -> None:
    import pluggy

    assert tried("pluggy", tmp_path) == Finding("tools", "pluggy", pluggy.__version__)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("raise ImportError('libonnx.so.1: cannot open shared object file')", "ImportError: libonnx.so.1: cannot open"),
        ("import os; os.abort()", "the process crashed: SIGABRT"),
    ],
)
def test_a_package_that_does_not_load(tmp_path: Path, monkeypatch, text: str, value: str) -> None:
    elsewhere, folder = tmp_path / "site", tmp_path / "project"
    (elsewhere / "onnxsim").mkdir(parents=True)
    (elsewhere / "onnxsim/__init__.py").write_text(text)
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{elsewhere}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    found = tried("onnxsim", folder, ">=0.4.36")
    assert (found.state, found.do) == ("broken", "Install it anew: pip install --force-reinstall 'onnxsim>=0.4.36'.")
    assert f"does not load: {value}" in found.value


def test_a_folder_of_the_project_that_hides_a_package(tmp_path: Path) -> None:
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich/__init__.py").write_text("")
    found = tried("rich", tmp_path)
    assert found.state == "broken"
    assert found.value.endswith(" is hidden by rich/__init__.py")
    assert found.do == "Rename rich: Python finds it before the installed rich."


def test_what_is_installed_for_a_user_alone_hides_nothing_in_the_home(tmp_path: Path, monkeypatch) -> None:
    site = tmp_path / ".local/lib/python3.11/site-packages"
    (site / "rich").mkdir(parents=True)
    (site / "rich/__init__.py").write_text("")
    (tmp_path / "rich_of_mine.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert packages._import("rich", tmp_path)[1] == f"{site}/rich/__init__.py"
    assert tried("rich", tmp_path).state == "ok"


def test_a_file_of_the_project_that_hides_a_package_below(tmp_path: Path) -> None:
    (tmp_path / "pycuda.py").write_text("")
    found = packages._finding("pycuda", ("1", f"{tmp_path}/pycuda.py", ""), "", tmp_path)
    assert found.value.endswith(" is hidden by pycuda.py")


def test_versions_that_are_too_old_and_packages_that_are_not_there(tmp_path: Path) -> None:
    assert tried("pluggy", tmp_path, ">=99").do == "pip install 'pluggy>=99'."
    absent = packages._finding("torch", ("", "", "ModuleNotFoundError: No module named 'torch'"), ">=2.5", tmp_path)
    if shutil.which("nvidia-smi") is None:
        optional = tried("tensorrt", tmp_path)
        assert (optional.state, optional.value) == ("ok", "not installed; optional: pip install 'qntz[gpu]'")
    assert absent.state == "broken"  # torch is here, so it is one that does not load
    assert "does not load" in absent.value


# the environment


def test_the_python_of_another_environment_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}")
    assert other_python() == ""
    assert project_of._python().state == "ok"
    base = Path(getattr(sys, "_base_executable", sys.executable))
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {base} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    assert other_python().startswith(
        f"`python` on PATH is {tmp_path}/python, and DVC starts the stages with it. Activate"
    )
    assert project_of._python().state == "broken"  # the one that environments are made from has no qntz
    monkeypatch.setenv("PATH", "")
    assert other_python().startswith("there is no `python` on PATH, and DVC starts the stages with it.")
    assert project_of._python().state == "broken"


def test_the_machine_is_told_as_another_tool_tells_it() -> None:
    psutil = pytest.importorskip("psutil")  # DVC's
    total, free = machine.memory()
    assert total == psutil.virtual_memory().total
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    assert machine.cores() == len(psutil.Process().cpu_affinity())
    assert machine.cpu_name()
    limit = machine.memory_limit()
    assert limit is None or limit > 2**20


# the project


def test_this_repository_is_in_step(root: Path) -> None:
    assert list(pipeline.findings(root)) == SOUND


@pytest.mark.parametrize("stage", [stage for stage in READS if stage != "report"])
def test_a_key_that_dvc_yaml_does_not_name(project: Path, stage: str) -> None:
    """Each stage's last key, and the digests of what else it depends on."""
    told = yaml.safe_load((project / "dvc.yaml").read_text())
    (params,) = told["stages"][stage]["do"]["params"]
    (file,) = params
    params[file] = params[file][:-2]
    (project / "dvc.yaml").write_text(yaml.safe_dump(told))
    found, stages = pipeline.findings(project)
    assert (found.state, found.name) == ("broken", "dvc.yaml")
    assert found.value == f"{stage} may read {READS[stage][-1]}, inputs.{stage}, and does not name it"
    assert stages == SOUND[1]


def test_a_mapping_names_all_that_is_in_it(project: Path) -> None:
    text = (project / "dvc.yaml").read_text()
    shorter = text.replace("[model.inputs, export, inputs.export]", "[model, export, inputs.export]")
    assert shorter != text
    (project / "dvc.yaml").write_text(shorter)
    assert list(pipeline.findings(project)) == SOUND


@pytest.mark.parametrize(
    ("old", "new", "state", "value"),
    [
        ("deps: [examples]", "deps: [mine, theirs.dvc]", "ok", "names every key that a stage may read"),
        ("stages.engine ", "mine.engine ", "note", "engine: cmd not as this qntz ships them"),
        ('        - "build/models/${key}/model.onnx.data"\n', "", "note", "export: outs not as this qntz ships them"),
        ("  simplify:\n", "  simplified:\n", "broken", "no stage simplify"),
        ("    always_changed: true\n", "", "broken", "compose is not always_changed"),
        ("{persist: true}", "{persist: false}", "note", "compose: outs not as this qntz ships them"),
        ("foreach: ${models}", "foreach: ${engines}", "note", "check: foreach not as this qntz ships them"),
        ("foreach: ${models}", "matrix: {key: [a]}", "note", "check: foreach, matrix not as this qntz ships them"),
        (
            "      cmd: python -m stages.export",
            "      frozen: true\n      cmd: python -m stages.export",
            "note",
            "export: frozen not as",
        ),
        (
            "    cmd: python -m stages.compose",
            "    wdir: ..\n    cmd: python -m stages.compose",
            "note",
            "compose: wdir not as",
        ),
        ("  - params.yaml\n", "  - other.yaml\n", "broken", "vars lack params.yaml"),
        ("vars:\n  - params.yaml\n", "", "broken", "vars lack params.yaml"),
        ("  - params.yaml\n", "  - params.yaml\n  - theirs.yaml\n", "ok", "names every key that a stage may read"),
        ("      desc: exported to ONNX\n", "", "ok", "names every key that a stage may read"),
        (
            "[model.inputs, export, inputs.export]",
            "[model.inputs, export, inputs.export, model.dims]",
            "ok",
            "names every",
        ),
        ("stages:\n", "steps:\n", "broken", "cannot be read: it holds no stages as DVC has them"),
        ("stages:\n", "stages: [\n", "broken", "cannot be read: while parsing a "),
    ],
)
def test_other_differences_of_dvc_yaml(project: Path, old: str, new: str, state: str, value: str) -> None:
    text = (project / "dvc.yaml").read_text()
    assert old in text
    (project / "dvc.yaml").write_text(text.replace(old, new, 1))
    found = next(pipeline.findings(project))
    assert found.state == state
    assert found.value.startswith(value)


def test_stages_that_differ_or_are_gone(project: Path) -> None:
    (project / "stages/export.py").write_text("# of an older qntz\n")
    (project / "stages/verify.py").unlink()
    (project / "stages/of_their_own.py").write_text("")
    assert list(pipeline.findings(project))[1:] == [
        Finding(
            "project", "stages/", "stages/verify.py missing", "broken", "`qntz init --update` writes the shipped ones."
        ),
        Finding(
            "project",
            "stages/",
            "not as this qntz ships them: stages/export.py",
            "note",
            "`qntz init --update` writes the shipped ones.",
        ),
    ]


S3 = "[core]\n    remote = shared\n['remote \"shared\"']\n    url = s3://models/cache\n"


@pytest.mark.parametrize(
    ("config", "state", "value", "do"),
    [
        (
            S3,
            "broken",
            ".dvc/config: remote 'shared': what it delivers is not compared with its digest: a file that was cut short",
            "Run `dvc remote modify shared verify true`.",
        ),
        (
            S3 + "    verify = true\n    secret_access_key = hidden\n",
            "broken",
            ".dvc/config: remote 'shared': secret_access_key stands in a file that git keeps",
            "Take it out, and give it by the environment, or by `dvc remote modify --local`.",
        ),
        (S3 + "    verify = true\n", "ok", "shared", ""),
    ],
)
def test_a_remote_that_compose_refuses_is_broken(project: Path, config: str, state: str, value: str, do: str) -> None:
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=project, check=True)
    (project / ".dvc/config").write_text(config)
    (found,) = [one for one in project_of.findings(project) if one.name == "DVC remote"]
    assert (found.state, found.do) == (state, do)
    assert found.value.startswith(value)


def test_another_pipeline_of_dvc_is_no_project(project: Path) -> None:
    assert project_of.is_project(project)
    (project / "stages/entry.py").unlink()
    assert project_of.is_project(project)  # a broken one
    (project / "dvc.yaml").write_text("stages: {train: {cmd: python train.py}}\n")
    assert not project_of.is_project(project)


def test_the_default_backend_is_the_one_of_conf(root: Path, project: Path) -> None:
    from qntz.doctor.project import default_backend

    assert default_backend(project) == "tensorrt_rtx"
    config = project / "conf/config.yaml"
    config.write_text(config.read_text().replace("engine: tensorrt_rtx", "engine: onnxruntime"))
    assert default_backend(project) == "onnxruntime"
    assert default_backend(project / "examples") == "tensorrt_rtx"


def test_a_backend_says_in_its_own_words_why_it_does_not_work(project: Path) -> None:
    from qntz.builtin.tensorrt import qntz_backends
    from qntz.config import EngineConfig

    (backend,) = qntz_backends()
    refused = backend.refusal(EngineConfig(backend="tensorrt"), "fp32")
    if refused is None or "compute capability" in str(refused):
        pytest.skip("tensorrt works here")
    (project / "plugins/broken.py").write_text("import gone\n")
    failure, first, *others = backends.findings(project, "tensorrt")
    assert (failure.name, failure.state) == ("plugins", "broken")
    assert failure.value.startswith("plugins/broken.py:1: the plugin does not load: ModuleNotFoundError")
    assert (first.name, first.state, first.do) == ("tensorrt", "broken", refused.do)
    assert first.value.startswith(f"cannot work here (default): {refused.what}")
    assert Finding("backends", "onnxruntime", "builds and runs") in others


def test_a_wholly_broken_installation_is_told(root: Path, tmp_path: Path) -> None:
    """In a project; what cannot be imported is not needed to say so."""
    broken = ("yaml", "numpy", "torch", "dvc", "hydra", "onnx", "onnxruntime", "rich", "packaging", "jinja2")
    for name in broken:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('lib{name}.so: cannot open')")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}", "COLUMNS": "100"}
    command = [sys.executable, "-m", "qntz.cli", "doctor"]
    done = subprocess.run(command, cwd=root / "examples", env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert max(map(len, done.stdout.splitlines())) <= 100
    for name in broken:
        assert f"does not load: ImportError: lib{name}.so: cannot open." in done.stdout
    ends = " ".join(done.stdout.rpartition("\n\n")[2].split())
    assert re.match(r"\d+ broken: dvc, hydra-core, torch, onnx, onnxruntime, .*numpy, .*pyyaml, ", ends)


@pytest.mark.slow
def test_the_whole_of_it(root: Path, tmp_path: Path, monkeypatch) -> None:
    """Here as a table and as JSON, and in a folder that is no project."""
    tools = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(root), "COLUMNS": "100"}

    def doctor(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "qntz.cli", "doctor", *options]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)

    here = doctor(root)
    assert (here.returncode, here.stderr) == (0, "")
    lines = here.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line for line in lines if line and line[0].islower() and " " not in line] == [
        "tools",
        "machine",
        "backends",
        "project",
    ]
    assert lines[-1] == "A default pipeline can work here."
    told = json.loads(doctor(root, "--json").stdout)
    assert told["broken"] == 0
    torch = next(one for one in told["findings"] if one["name"] == "torch")
    assert torch["state"] == "ok"
    assert any(line.split() == ["torch", torch["value"]] for line in lines)
    elsewhere = doctor(tmp_path)
    assert elsewhere.returncode == 0
    assert "note    folder          no project of qntz. `qntz init` makes it one." in elsewhere.stdout.splitlines()
    (tmp_path / "dvc.yaml").write_text("stages: {compose: {cmd: python -m stages.compose}}\n")
    broken = doctor(tmp_path)
    assert broken.returncode == 1
    assert broken.stdout.splitlines()[-1] == "2 broken: folder, DVC."
