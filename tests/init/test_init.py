"""`qntz init`, as a user types it: what it writes, and what it leaves alone."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qntz.cli import main
from qntz.cli_init import WHAT
from qntz.compose import compose
from qntz.scaffold import table
from qntz.scaffold import write as writing
from qntz.scaffold.plan import IGNORED
from qntz.scaffold.requirement import PLACES, UNKNOWN, requirement
from qntz.trust import HOLDS
from tests.init.conftest import DVC_CONFIG, FILES, GIT, tree

WITH_MODEL = ("--model", "mypkg.net:TinyNet", "--arg", "width=16", "--input", "image=float32:batch,3,32,32")
WEIGHTS = ("--weights", "mypkg/tiny.safetensors")


def test_an_empty_folder_becomes_a_project_of_this_repositorys_own_files(root: Path, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine"]) == 0
    mine = tmp_path / "mine"
    said = capsys.readouterr().out.splitlines()
    by_dvc = {".dvc/config", ".dvc/.gitignore"}
    assert said[0] == f"mine: git init, dvc init, {len(tree(mine).keys() - by_dvc)} files"
    assert said[said.index("next:") + 1] == "  cd mine"
    written = tree(mine)
    assert written["requirements.txt"].decode() == f"{requirement() or UNKNOWN}\n"
    copied = written.keys() - {
        "requirements.txt",
        ".dvc/config",
        ".dvc/.gitignore",
        ".dvcignore",
        ".gitignore",
        "params.yaml",
    }
    assert {name for name in copied if written[name] != (root / name).read_bytes()} == set()
    assert {"dvc.yaml", "conf/config.yaml", "stages/export.py", "plugins/complex_rotary.py"} <= copied
    config = configparser.ConfigParser()
    config.read(mine / ".dvc/config")
    assert dict(config["core"].items()) == {"analytics": "false", "check_update": "false"}
    composed = compose(mine)
    assert not composed.errors
    assert (set(composed.models), set(composed.engines)) == ({"digits"}, {"digits-fp32", "digits-fp16", "digits-int8"})
    own = set((root / "params.yaml").read_text().splitlines())
    assert [line for line in (mine / "params.yaml").read_text().splitlines() if line not in own] == []

    capsys.readouterr()
    assert main(["init", "mine"]) == 0  # again: there is nothing to do
    assert capsys.readouterr().out == "mine: all of it is there already\n"
    (mine / "stages/export.py").unlink()
    (mine / "params.yaml").write_text("models: {}\n")
    before = tree(mine)
    assert main(["init", "mine"]) == 2
    assert capsys.readouterr().err == (
        f"error: init: {mine}: params.yaml is in the way. Nothing was written. It is a project already: a further model "
        "is a conf/model/NAME.yaml, and an entry of params.yaml.\n"
    )
    before.pop("build/memo/compose.json", None)
    assert {name: data for name, data in tree(mine).items() if name in before} == before
    assert not (mine / "stages/export.py").exists()


@pytest.mark.parametrize(("given", "told"), [((), True), (WEIGHTS, False)], ids=["drawn", "trained"])
def test_a_model_without_weights_is_told_to_be_untrained(theirs: Path, capsys, given, told: bool) -> None:
    assert main(["init", *WITH_MODEL, *given]) == 0
    assert ("may not agree in a lower precision" in capsys.readouterr().out) == told


def test_a_repository_keeps_all_that_it_has(without_dvc: Path, capsys) -> None:
    theirs = without_dvc
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=theirs, capture_output=True, check=True).stdout
    assert main(["init", *WITH_MODEL, *WEIGHTS]) == 0
    said = capsys.readouterr().out
    assert said.startswith("dvc init, ")
    assert "note: setuptools finds this project's packages by itself" in said
    assert "note: pyproject.toml does not name qntz, and what installs this project elsewhere needs it: " in said
    assert not (without_dvc / "requirements.txt").exists()
    assert subprocess.run(["git", "rev-parse", "HEAD"], cwd=theirs, capture_output=True, check=True).stdout == head
    now = tree(theirs)
    assert {name: now[name].decode() for name in FILES if name != ".gitignore"} == {
        name: text for name, text in FILES.items() if name != ".gitignore"
    }
    assert now[".gitignore"].decode().splitlines() == [
        *FILES[".gitignore"].splitlines(),  # which has build/ already
        "__pycache__/",
        "/dvc_plots/",
        "dvc.lock.damaged*",
    ]
    assert not [name for name in now if name.startswith("examples/")]
    assert [name for name in now if name.startswith("conf/model/")] == ["conf/model/tiny_net.yaml"]
    composed = compose(theirs)
    assert not composed.errors
    model = composed.models["tiny_net"]["model"]
    assert model["factory"] == {"_target_": "mypkg.net.TinyNet", "width": 16}
    assert model["weights"] == "mypkg/tiny.safetensors"
    assert model["inputs"]["image"] == {"dtype": "float32", "shape": ["batch", 3, 32, 32], "range": None}
    assert model["dims"] == {"batch": {"min": 1, "opt": 8, "max": 64}}
    precisions = {name: engine["quantize"]["precision"] for name, engine in composed.engines.items()}
    assert precisions == {"tiny_net-fp32": "fp32", "tiny_net-fp16": "fp16"}


def test_the_pipeline_differs_from_this_repositorys_in_one_line(theirs: Path, root: Path) -> None:
    assert main(["init", *WITH_MODEL, *WEIGHTS]) == 0
    own, made = (root / "dvc.yaml").read_text().splitlines(), (theirs / "dvc.yaml").read_text().splitlines()
    assert len(own) == len(made)
    (pair,) = [(one, other) for one, other in zip(own, made, strict=True) if one != other]
    comment = pair[0].partition("#")[2]
    assert pair == (f"    deps: [examples]  #{comment}", f"    deps: [mypkg/tiny.safetensors]  #{comment}")
    stages = yaml.safe_load((theirs / "dvc.yaml").read_text())["stages"]
    assert stages["compose"]["deps"] == ["mypkg/tiny.safetensors"]


def test_dvc_and_git_that_are_there_are_left_as_they_are(theirs: Path, capsys) -> None:
    (theirs / ".dvcignore").write_text("__pycache__\n")
    assert main(["init", *WITH_MODEL]) == 0
    assert "dvc init" not in capsys.readouterr().out
    assert (theirs / ".dvc/config").read_text() == DVC_CONFIG
    assert (theirs / ".dvcignore").read_text() == "__pycache__\n*.tmp\n"
    assert yaml.safe_load((theirs / "dvc.yaml").read_text())["stages"]["compose"]["deps"] == []
    assert (theirs / ".dvc/plots/engines.json").is_file()


def test_a_folder_of_its_own_within_a_repository(without_dvc: Path, capsys) -> None:
    """With DVC further up or not; where CI files would not be seen, there are none."""
    theirs = without_dvc
    assert main(["init", "below"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("below: dvc init, ")
    assert (theirs / "below/.dvc/config").is_file()
    assert not (theirs / ".dvc").exists()
    if (Path(__file__).parents[2] / ".gitlab-ci.yml").is_file():
        assert f"note: no CI files: they belong to the top of the repository, {theirs}" in said.splitlines()
    assert not (theirs / "below/.gitlab-ci.yml").exists()
    (theirs / ".dvc").mkdir()
    (theirs / ".dvc/config").write_text(DVC_CONFIG)
    assert main(["init", "beside"]) == 0
    assert capsys.readouterr().out.startswith("beside: 5")  # no `dvc init`
    assert not (theirs / "beside/.dvc").exists()
    assert (theirs / ".dvc/plots/engines.json").is_file()


def test_each_thing_at_the_top_is_told(root: Path) -> None:
    tops = {name.partition("/")[0] for name in (*table.all_files(root), *table.CI, table.PARAMS, *PLACES[:1], *IGNORED)}
    assert tops == set(WHAT)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({"dvc.yaml": "stages: {}\n"}, "dvc.yaml is"),
        ({"params.yaml": "lr: 0.1\n", "conf/config.yaml": "defaults: []\n"}, "conf/config.yaml, params.yaml are"),
        ({"conf": "a file\n"}, "conf is"),
        ({"stages/engine.py": "", "stages/verify.py": ""}, "stages/engine.py, stages/verify.py are"),
        ({"dvc.yaml/inner": ""}, "dvc.yaml is"),
    ],
)
def test_what_is_in_the_way_is_named_and_nothing_is_written(theirs: Path, capsys, files, names) -> None:
    for name, text in files.items():
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        (theirs / name).write_text(text)
    before = tree(theirs)
    assert main(["init", *WITH_MODEL]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: init: {names} in the way. Nothing was written. Move ")
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert tree(theirs) == before


def test_a_folder_dvc_that_is_no_repository(without_dvc: Path, capsys) -> None:
    (without_dvc / ".dvc").mkdir()
    assert main(["init", *WITH_MODEL]) == 2
    assert capsys.readouterr().err.startswith("error: init: .dvc is in the way. Nothing was written.")


def test_a_file_of_patterns_in_another_encoding(theirs: Path) -> None:
    before = "*.pyc\n# Über\r\n".encode("latin-1")
    (theirs / ".gitignore").write_bytes(before)
    assert main(["init", *WITH_MODEL]) == 0
    assert (theirs / ".gitignore").read_bytes().startswith(before + b"/build/\n")


def test_plugins_of_another_tool_are_refused(theirs: Path, capsys) -> None:
    (theirs / "plugins").mkdir()
    (theirs / "plugins/theirs.py").write_text("def register():\n    pass\n")
    before = tree(theirs)
    assert main(["init", *WITH_MODEL]) == 1
    assert capsys.readouterr().err.startswith(
        "error: init: plugins/theirs.py: is no plugin of qntz: qntz loads every file of plugins/."
    )
    assert tree(theirs) == before


def test_a_file_is_no_folder(theirs: Path, capsys) -> None:
    assert main(["init", "pyproject.toml"]) == 2
    assert capsys.readouterr().err == f"error: init: {theirs}/pyproject.toml: is no folder.\n"


def test_what_git_ignores_is_told(theirs: Path, capsys) -> None:
    (theirs / ".gitignore").write_text("plugins/\n*.yaml\n!dvc.yaml\n")
    assert main(["init", *WITH_MODEL]) == 0
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "git ignores" in line]
    assert note.startswith(
        "note: git ignores conf/calibrate/default.yaml, conf/check/default.yaml, conf/config.yaml and "
    )


def everything(root: Path) -> dict[str, bytes | None]:
    """Every file and folder but what is below .git, and what git has staged."""
    found = {path: path for path in root.rglob("*") if ".git" not in path.relative_to(root).parts[:-1]}
    staged = subprocess.run(["git", "ls-files", "--stage"], cwd=root, capture_output=True, check=False).stdout
    told = {path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None for path in found}
    return {**told, "staged": staged}


def init_on_a_full_disk(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """No file may be larger than 400 KiB: the digits' weights cannot be written."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400 * 1024,) * 2)"
    code = f"{limit}\nimport sys; from qntz.cli import main; sys.exit(main({['init', *options]!r}))"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    done = init_on_a_full_disk(tmp_path, "there/mine")
    assert done.returncode == 1
    assert "weights.safetensors: cannot be written: File too large." in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [".", "below"])
@pytest.mark.parametrize("with_dvc", [False, True])
def test_a_full_disk_leaves_a_repository_as_it_was(without_dvc: Path, folder: str, with_dvc: bool) -> None:
    theirs = without_dvc
    (theirs / "conf/theirs").mkdir(parents=True)
    (theirs / ".dvcignore").write_text("*.log")
    if with_dvc:
        subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=theirs, check=True)
    (theirs / "staged.txt").write_text("")
    subprocess.run(["git", "add", "staged.txt"], cwd=theirs, check=True)
    before = everything(theirs)
    done = init_on_a_full_disk(theirs, folder)
    assert done.returncode == 1, done.stdout
    assert "weights.safetensors: cannot be written: File too large." in done.stderr
    assert everything(theirs) == before
    assert main(["init", folder]) == 0  # and where there is space again, nothing is in the way


def test_dvc_that_fails_leaves_a_repository_as_it_was(without_dvc: Path, monkeypatch, capsys) -> None:
    fails = "raise SystemExit('no lock could be had')"
    monkeypatch.setattr(writing, "_DVC_INIT", f"import os; os.makedirs('.dvc/tmp')\nopen('.dvc/x', 'w'); {fails}")
    before = everything(without_dvc)
    assert main(["init", *WITH_MODEL]) == 1
    assert capsys.readouterr().err == f"error: init: {without_dvc}: `dvc init` fails: no lock could be had.\n"
    assert everything(without_dvc) == before


@pytest.mark.parametrize("pattern", [".dvc", ".dvc/", "/.dvc/*", ".*"])
def test_a_folder_of_dvc_that_git_ignores(without_dvc: Path, capsys, pattern: str) -> None:
    (without_dvc / ".gitignore").write_text(f"*.pyc\n{pattern}\n")
    before = everything(without_dvc)
    assert main(["init", *WITH_MODEL]) == 2
    assert capsys.readouterr().err == (
        f"error: init: git ignores .dvc: .gitignore:2:{pattern}. Nothing was written. Take the pattern out: DVC keeps its "
        "configuration in git.\n"
    )
    assert everything(without_dvc) == before
    (without_dvc / ".gitignore").write_text(f"{pattern}\n!.dvc\n!/.dvc/*\n")
    assert main(["init", *WITH_MODEL]) == 0


# the branch that CI builds


def git(folder: Path, *command: str) -> str:
    return subprocess.run([*GIT, *command], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def pushes(folder: Path) -> list[str]:
    told = yaml.safe_load((folder / ".github/workflows/pipeline.yml").read_text())
    return told[True]["push"]["branches"]  # `on`, as YAML reads it


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ([("branch", "-M", "main")], "main"),
        ([("branch", "-M", "master")], "master"),
        ([("branch", "-M", "trunk")], "trunk"),
        ([("branch", "-M", "main"), ("checkout", "-q", "-b", "engines")], "main"),
        ([("branch", "-M", "master"), ("checkout", "-q", "-b", "engines")], "master"),
        ([("branch", "-M", "main"), ("update-ref", "refs/remotes/origin/of/all", "HEAD"), ("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/of/all")], "of/all"),
        ([("branch", "-M", "a+b,c"), ("checkout", "-q", "--detach"), ("checkout", "-q", "a+b,c")], r"a\+b,c"),
        ([("checkout", "-q", "--orphan", "first"), ("branch", "-D", "start")], "first"),
    ],
)  # fmt: skip
def test_ci_builds_the_branch_of_the_repository(without_dvc: Path, root: Path, commands, expected: str) -> None:
    git(without_dvc, "branch", "-M", "start")
    for command in commands:
        git(without_dvc, *command)
    assert main(["init", *WITH_MODEL]) == 0
    assert pushes(without_dvc) == [expected]
    made, own = ((one / ".github/workflows/pipeline.yml").read_text().splitlines() for one in (without_dvc, root))
    assert sum(one != other for one, other in zip(made, own, strict=True)) == (expected != "main")
    assert (without_dvc / ".gitlab-ci.yml").read_bytes() == (root / ".gitlab-ci.yml").read_bytes()  # which asks GitLab


@pytest.mark.parametrize("configured", ["", "trunk"])
def test_a_new_repository_begins_with_the_branch_that_ci_builds(tmp_path: Path, monkeypatch, configured: str) -> None:
    """Whatever git begins with by itself."""
    (tmp_path / "config").write_text(f"[init]\n    defaultBranch = {configured}\n" if configured else "")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", f"{tmp_path}/config")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine"]) == 0
    assert git(tmp_path / "mine", "symbolic-ref", "--short", "HEAD") == (configured or "main")
    assert pushes(tmp_path / "mine") == [configured or "main"]


# a clone of qntz that is in use


@pytest.mark.parametrize(
    "params",
    [
        "models:\n  mine:\n    use: digits\nengines:\n  mine-fp32:\n    model: mine\n",
        "models: {rows: {}}\nengines: {rows-fp32: {model: rows}}\n",
        "models: {digits: {}}\nengines: {digits-fp32: {model: digits, engine: {use: onnxruntime}}}\n",
        "models: [",
    ],
)
def test_the_params_of_a_clone_are_its_own(project: Path, tmp_path_factory, params: str, root: Path) -> None:
    (project / "params.yaml").write_text(params)
    folder = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-m", "qntz.cli", "init", "mine"]
    env = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    own = yaml.safe_load((root / "params.yaml").read_text())
    assert yaml.safe_load((folder / "mine/params.yaml").read_text()) == {
        "models": {"digits": own["models"]["digits"]},
        "engines": {name: entry for name, entry in own["engines"].items() if entry["model"] == "digits"},
    }


# a saved model


@pytest.mark.parametrize("file", ["net.ts", "net.pt2"])
def test_a_saved_model_is_trusted_by_its_user_alone(theirs: Path, capsys, file: str) -> None:
    (theirs / file).write_bytes(b"code")
    assert main(["init", "--model", file, "--input", "x=float32:batch,2"]) == 0
    said = capsys.readouterr().out.splitlines()
    (note,) = [line for line in said if "trusted" in line]
    kind = "torchscript" if file == "net.ts" else "program"
    assert note == (
        f"note: {HOLDS[kind]}, so compose refuses {file} as long as `trusted:` stands behind a # in conf/model/net.yaml: "
        "take that away if you trust who made it."
    )
    assert said.index(note) < said.index("next:")
    refused, *_ = compose(theirs).errors.values()
    conf = theirs / "conf/model/net.yaml"
    (line,) = [line for line in conf.read_text().splitlines() if "trusted" in line]
    assert f"put `{line.removeprefix('# ').partition('  #')[0]}` beside" in str(refused)
    conf.write_text(conf.read_text().replace("# trusted", "trusted"))
    assert not compose(theirs).errors


# what is damaged, and what is not there


@pytest.mark.parametrize("text", ['build-system = "x"\n[project]\nname = "a"\n', 'tool = "x"\n', "project = [\n"])
def test_a_pyproject_that_is_none(theirs: Path, text: str) -> None:
    (theirs / "pyproject.toml").write_text(text)
    assert main(["init", *WITH_MODEL]) == 0


def without_git(folder: Path, monkeypatch, installed: bool) -> None:
    """A project of DVC without git, on a machine that has it or not."""
    shutil.rmtree(folder / ".git")
    config = folder / ".dvc/config"
    config.write_text(config.read_text().replace("[core]", "[core]\n    no_scm = True"))
    if not installed:
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
        assert shutil.which("git") is None


@pytest.mark.parametrize("installed", [True, False])
def test_a_project_of_dvc_without_git(theirs: Path, monkeypatch, capsys, installed: bool) -> None:
    without_git(theirs, monkeypatch, installed)
    assert main(["init", *WITH_MODEL]) == 0
    assert "next:" in capsys.readouterr().out
    assert not compose(theirs).errors
    (theirs / "stages/engine.py").write_text("# of an older qntz\n")
    assert main(["init", "--update"]) == 0
    assert capsys.readouterr().out == (
        "written: stages/engine.py\nnote: git does not keep what was replaced, so it is kept as stages/engine.py.bak.\n"
    )
    assert (theirs / "stages/engine.py.bak").read_text() == "# of an older qntz\n"
    (theirs / "stages/engine.py").write_text("# of another\n")
    assert main(["init", "--update"]) == 0
    assert (theirs / "stages/engine.py.bak").read_text() == "# of an older qntz\n"
    assert (theirs / "stages/engine.py.bak1").read_text() == "# of another\n"
    capsys.readouterr()
    assert main(["init", "--update"]) == 0
    assert capsys.readouterr().out == "all of it is as this qntz ships it\n"


def test_an_update_of_files_that_git_ignores(theirs: Path, capsys) -> None:
    (theirs / ".gitignore").write_text("stages/\n")
    assert main(["init", *WITH_MODEL]) == 0
    for command in (("add", "-A"), ("commit", "-q", "-m", "qntz")):
        git(theirs, *command)
    (theirs / "stages/engine.py").write_text("# of an older qntz\n")
    assert main(["init", "--update"]) == 0
    assert (theirs / "stages/engine.py.bak").read_text() == "# of an older qntz\n"


@pytest.mark.parametrize(
    "option",
    [("--model", "mypkg.net:tiny"), ("--name", "a"), ("--input", "x=float32:1"), ("--dim", "batch=1,2,3"), ("--arg", "a=1"), ("--weights", "mypkg/tiny.safetensors")],
)  # fmt: skip
def test_an_update_takes_no_description_of_a_model(theirs: Path, capsys, option: tuple[str, str]) -> None:
    assert main(["init", *WITH_MODEL]) == 0
    capsys.readouterr()
    assert main(["init", "--update", *option]) == 2
    assert capsys.readouterr().err == (
        f"error: init: {option[0]} does not go with --update. Write conf/model/NAME.yaml, as those that are there.\n"
    )


def test_update_brings_the_shipped_files_and_keeps_the_rest(theirs: Path, root: Path, capsys) -> None:
    assert main(["init", *WITH_MODEL, *WEIGHTS]) == 0
    (theirs / "stages/engine.py").write_text("# of an older qntz\n")
    (theirs / "stages/verify.py").unlink()
    (theirs / "plugins/complex_rotary.py").unlink()
    older = (
        (theirs / "dvc.yaml").read_text().replace("model.dims, quantize.precision, engine, inputs", "engine, inputs")
    )
    (theirs / "dvc.yaml").write_text(older)
    (theirs / "params.yaml").write_text("models: {tiny_net: {}}\nengines: {a: {model: tiny_net}}\n")
    capsys.readouterr()
    assert main(["init", "--update"]) == 2  # nothing of it is in git yet
    assert capsys.readouterr().err == (
        "error: init: dvc.yaml, stages/engine.py have changes that git does not hold. Nothing was written. Commit them: "
        "`git diff` then shows what the update changes.\n"
    )
    for command in (("add", "-A"), ("commit", "-q", "-m", "qntz")):
        subprocess.run([*GIT, *command], cwd=theirs, check=True)
    assert main(["init", "--update"]) == 0
    assert capsys.readouterr().out == "written: dvc.yaml\nwritten: stages/engine.py\nwritten: stages/verify.py\n"
    for name in ("stages/engine.py", "stages/verify.py"):
        assert (theirs / name).read_bytes() == (root / name).read_bytes()
    expected = (root / "dvc.yaml").read_text().replace("deps: [examples]", "deps: [mypkg/tiny.safetensors]")
    assert (theirs / "dvc.yaml").read_text() == expected
    assert (theirs / "params.yaml").read_text().startswith("models: {tiny_net: {}}")
    assert not (theirs / "plugins/complex_rotary.py").exists()
    assert main(["init", "--update"]) == 0
    assert capsys.readouterr().out == "all of it is as this qntz ships it\n"
    (theirs / "dvc.yaml").write_text(expected + "  train:\n    cmd: python -m mypkg.train\n")
    assert main(["init", "--update"]) == 0
    assert capsys.readouterr().out.startswith("note: dvc.yaml is left as it is, for it has train of its own; ")
    assert "train:" in (theirs / "dvc.yaml").read_text()


def test_there_is_nothing_to_update_elsewhere(theirs: Path, capsys) -> None:
    assert main(["init", "--update"]) == 2
    assert capsys.readouterr().err == f"error: init: {theirs}: is no project of qntz. Make it one: qntz init.\n"
