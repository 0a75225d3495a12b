"""`qntz check` and `qntz rule`, as a user types them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

NET = """import torch
from torch import Tensor, nn


class Net(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print("noise")
        if x.sum() > 0:
            return x * 2
        return x


class Good(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.sum() > 0, x * 2, x)


class Hangs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while True:
            x = x + 1


EXAMPLE = {"x": torch.ones(2, 3)}
PROBES = [{"x": -torch.ones(4, 3)}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "net.py").write_text(NET)
    return tmp_path


def qntz(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qntz.cli", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def check(folder: Path, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    given = ("--example", "pkg/net.py:EXAMPLE", "--probes", "pkg.net:PROBES")
    return qntz(folder, "check", f"pkg/net.py:{name}", *given, *more)


def test_a_class_is_checked_without_a_pipeline(folder: Path) -> None:
    done = check(folder, "Net")
    assert done.returncode == 1
    assert done.stdout.startswith(
        "pkg/net.py:8:12 QZ008 data-dependent-control-flow this `if` depends on a tensor's values"
    )
    assert done.stdout.endswith("1 error, no warnings, no notes\n")
    assert "noise" not in done.stdout.splitlines()
    good = check(folder, "Good")
    assert (good.returncode, good.stdout) == (0, "no errors, no warnings, no notes\n")


def test_scripting_keeps_the_branch(folder: Path) -> None:
    done = check(folder, "Net", "--route", "script")
    assert "QZ008 data-dependent-control-flow" in done.stdout
    assert "scripting keeps it" in done.stdout
    assert done.returncode == 0


def test_other_formats(folder: Path) -> None:
    told = json.loads(check(folder, "Net", "--format", "json").stdout)
    assert [(f["slug"], f["line"], f["column"]) for f in told["findings"]] == [("data-dependent-control-flow", 8, 12)]
    sarif = json.loads(check(folder, "Net", "--format", "sarif").stdout)
    assert sarif["runs"][0]["results"][0]["ruleId"] == "QZ008"
    github = check(folder, "Net", "--format", "github").stdout
    expected = r"::error file=pkg/net\.py,line=8,col=12,title=QZ008 data-dependent-control-flow::this `if` depends .*\n"
    assert re.fullmatch(expected, github)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("check", "pkg/net.py:Net"), 2, "error: check: pkg/net.py:Net: no example. Add --example pkg/net.py:EXAMPLE."),
        (
            ("check", "pkg/net.py:Nett", "--example", "pkg/net.py:EXAMPLE"),
            2,
            "pkg/net.py: no 'Nett'. Did you mean 'Net'?",
        ),
        (("check", "pkg/no.py:Net", "--example", "pkg/net.py:EXAMPLE"), 2, "pkg/no.py: no such file."),
        (("check", "pkg/net.py:EXAMPLE", "--example", "pkg/net.py:EXAMPLE"), 2, "is no module but a dict."),
        (("check", "pkg/net.py:Net", "--example", "pkg/net.py:Net"), 2, "pkg/net.py:Net: is a Net. Give"),
        (("check", "digits"), 1, "error: check: params.yaml: is missing."),
        (("check", "digits", "--example", "pkg/net.py:EXAMPLE"), 2, "--example and --probes belong to a target"),
        (("rule", "QZ999"), 2, "error: rule: no rule 'QZ999'. Did you mean"),
        (
            ("check", "pkg/net.py:Hangs", "--example", "pkg/net.py:EXAMPLE", "--seconds", "4"),
            1,
            "did not end within 4 s",
        ),
    ],
)
def test_refusals(folder: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = qntz(folder, *arguments)
    assert message in done.stderr, done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert "Traceback" not in done.stderr


def test_a_rule_is_explained_by_code_and_by_slug(folder: Path) -> None:
    by_code, by_slug = qntz(folder, "rule", "qz008"), qntz(folder, "rule", "data-dependent-control-flow")
    assert by_code.stdout == by_slug.stdout
    assert by_code.stdout.startswith("QZ008 data-dependent-control-flow (error; trace, dynamo)\n  what: Python decides")


def test_a_model_of_conf_is_checked(root: Path) -> None:
    done = qntz(root, "check", "digits")
    assert (done.returncode, done.stdout) == (0, "no errors, no warnings, no notes\n"), done.stderr


@pytest.mark.slow
def test_plugins_are_listed_and_tested(folder: Path) -> None:
    (folder / "plugins").mkdir(exist_ok=True)
    (folder / "plugins/wrong.py").write_text(PLUGIN)
    listed = qntz(folder, "plugins")
    assert listed.returncode == 0
    assert "plugins/wrong.py  (this project)\n  qntz_function_rewrites: bare, tripled\n" in listed.stdout
    assert "builtin/thresholds.py  (qntz " in listed.stdout
    tested = qntz(folder, "plugins", "test", "tripled", "autograd-forward")
    assert tested.returncode == 1
    first, second, counts = tested.stdout.splitlines()
    assert first.startswith(
        "right    function    autograd-forward  (builtin/rewrites.py)  fired 1 times, error 0; without"
    )
    assert second.startswith(
        "wrong    function    tripled  (plugins/wrong.py)  example 0: plugins/wrong.py: rewrite 'trip"
    )
    assert counts == "1 right, 1 wrong"
    bare = qntz(folder, "plugins", "test", "bare")
    assert (bare.returncode, bare.stdout.splitlines()[-1]) == (1, "1 untested")
    unknown = qntz(folder, "plugins", "test", "trippled")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == "error: plugins: no rewrite 'trippled'. Did you mean 'tripled'?\n"


@pytest.mark.slow
def test_every_rewrite_that_is_shipped_is_right(root: Path) -> None:
    done = qntz(root, "plugins", "test")
    *told, counts = done.stdout.splitlines()
    assert [line for line in told if not line.startswith("right ")] == []
    assert (done.returncode, counts) == (0, f"{len(told)} right"), done.stderr
    assert len(told) > 100


PLUGIN = """from qntz import hookimpl
from qntz.records import Example, FunctionRewrite


@hookimpl
def qntz_function_rewrites():
    example = Example(lambda x: __import__("torch").relu(x))
    yield FunctionRewrite("tripled", {"torch.relu": lambda x: x.clamp(min=0) * 3}, examples=(example,))
    yield FunctionRewrite("bare", {"torch.nn.functional.relu6": lambda x: x.clamp(0, 6)})
"""


def test_a_reader_that_stops_reading_is_no_error(folder: Path) -> None:
    command = f"set -o pipefail; {sys.executable} -m qntz.cli plugins | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # 0 where all was written before the reader went away
