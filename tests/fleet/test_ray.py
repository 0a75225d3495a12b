"""A real cluster of Ray, of three nodes on this machine, over a real S3 server: `qntz repro --on ray`."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fleet.machines import at_work, commit, entries, serial_beside, shared, wait_for_none, wait_for_work
from tests.pipeline.conftest import Project
from tests.pipeline.s3_server import BUCKET, CREDENTIALS, FEW_TRIES, Server, program

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")
GPU = (
    "default: {ray: {num_cpus: 1}}\ntargets:\n  - {backend: onnxruntime, ray: {num_cpus: 1, resources: {sm90: 0.1}}}\n"
)


@dataclass
class Nodes:
    """A cluster: the head, which takes no task, a node with "sm90", and one without."""

    address: str
    cluster: Any


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    from ray.cluster_utils import Cluster

    kept = dict(os.environ)
    os.environ.update(CREDENTIALS | FEW_TRIES | {"RAY_USAGE_STATS_ENABLED": "0"})
    options = {"object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **options})
    for resources in ({"sm90": 1.0}, {}):
        cluster.add_node(num_cpus=1, resources=resources, object_store_memory=80 << 20)
    try:
        cluster.wait_for_nodes(timeout=100)
    except TimeoutError as error:
        pytest.skip(f"NOT RUN: Ray's nodes do not come up here: {error}")
    try:
        yield Nodes(cluster.address, cluster)
    finally:
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(kept)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if program() is None:
        pytest.skip("NOT RUN: no S3 server here")
    (tmp_path / "server").mkdir()
    made = Server(tmp_path / "server")
    made.start()
    try:
        yield made
    finally:
        made.kill()


def with_s3(path: Path, text: str, server: Server, fleet: str = "") -> Project:
    project = shared(path, text, f"s3://{BUCKET}/dvc", fleet, **CREDENTIALS, **FEW_TRIES)
    for key, value in (("endpointurl", server.url), ("verify", "true")):
        assert project.dvc("remote", "modify", "shared", key, value).returncode == 0
    commit(project)
    return project


def start(project: Project, nodes: Nodes | None, *arguments: str, **extra: str) -> subprocess.Popen[str]:
    """With the address of a cluster; with None that which Ray finds."""
    address = [] if nodes is None else ["--address", nodes.address]
    return subprocess.Popen(
        [sys.executable, "-m", "qntz.cli", "repro", "--on", "ray", *address, *arguments],
        cwd=project.path,
        env=project.env(extra),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_a_worker_is_killed_and_the_remote_cut_off(count: int, nodes: Nodes, server: Server, tmp_path: Path) -> None:
    """All engines are there at the end, as a serial run makes them, and nothing ran twice but what was lost."""
    project = with_s3(tmp_path / "head", entries(count), server)
    serial = serial_beside(project, entries(count), split=count > 10)
    head = start(project, nodes)
    killed = wait_for_work(project, "stages.torchscript")
    with contextlib.suppress(psutil.NoSuchProcess):
        os.kill(killed.ppid(), signal.SIGKILL)  # Ray's own worker, with all of it
    time.sleep(random.Random(count).uniform(1, 6))
    server.kill()
    time.sleep(10)
    server.start()
    said, _ = head.communicate(timeout=3000)
    print(said)
    assert head.returncode == 0, said
    assert " was lost" in said
    lost = set(re.findall(r"^\S+@(m\d+)\S* (?:to \S+ )?(?:was lost|did not reach)", said, re.MULTILINE))
    twice = re.findall(r"more than once.*: (.*)", said)
    ran_twice = {one.partition("@")[2].partition("-")[0] for line in twice for one in line.split(", ")}
    assert ran_twice <= lost
    assert at_work(project) == []
    assert serial.qntz("repro", "-j", "2").returncode == 0
    assert project.digests() == serial.digests()
    assert len([path for path in project.digests() if path.endswith("quantized.onnx")]) == 2 * count
    assert len(list((project.path / "build/models").rglob("model.engine"))) == 2 * count
    assert project.repro() == set()
    again = start(project, nodes)
    assert again.communicate(timeout=300)[0].startswith("Nothing to do: ")
    assert again.returncode == 0


def test_engines_go_where_their_target_is(nodes: Nodes, tmp_path: Path) -> None:
    """On the cluster that Ray finds, which is told."""
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"), GPU)
    head = start(project, None, RAY_ADDRESS=nodes.address)
    said, _ = head.communicate(timeout=600)
    assert head.returncode == 0, said
    assert said.startswith(f"repro: on Ray at {nodes.address}\n"), said
    tasks = [line.partition(": ")[0] for line in said.splitlines() if " ran on " in line]
    assert len(tasks) == 2, (
        said
    )  # the model and its graphs; where "sm90" is its engines, and the report, which times them
    assert tasks[0].startswith("check@m0 to quantize@m0-")
    assert tasks[1].startswith("engine@m0-")
    assert tasks[1].endswith(" to report@m0")
    assert said.splitlines()[-1] == "12 ran"


def test_a_stage_that_fails_stops_nothing_beside_it_in_another_task(nodes: Nodes, tmp_path: Path) -> None:
    """The graphs are one task, the engines another: of one graph that cannot be made, one engine is not."""
    text = entries(1).replace(
        "m0-int8: {",
        "m0-bad: {model: m0, quantize: {use: int8, exclude: [no.such]}, engine: {use: onnxruntime}}\n  m0-int8: {",
    )
    project = shared(tmp_path / "head", text, str(tmp_path / "remote"), GPU)
    head = start(project, nodes)
    said, _ = head.communicate(timeout=600)
    assert head.returncode == 1, said
    assert sorted(path.parent.name for path in (project.path / "build/models").rglob("model.engine")) == [
        "m0-fp32",
        "m0-int8",
    ]
    assert "quantize@m0-bad failed" in said
    assert "1 failed, 3 blocked" in said.splitlines()[-1], said  # its engine, that one's figures, and the report


def test_a_target_that_no_node_has_is_told_at_the_start(nodes: Nodes, tmp_path: Path) -> None:
    fleet = "targets:\n  - {backend: onnxruntime, ray: {resources: {sm120: 1}}}\n"
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"), fleet)
    head = start(project, nodes)
    said, _ = head.communicate(timeout=100)
    assert head.returncode == 1
    assert said.startswith(
        "error: repro: conf/fleet.yaml: targets 0 (onnxruntime): no worker has what is asked: none of 3 nodes has CPU: 1, "
        "sm120: 1; there are CPU, memory, sm90. Start one that has it, or mend what is asked."
    ), said
    assert not (tmp_path / "work").exists()


def test_a_model_that_fails_is_not_tried_again(nodes: Nodes, tmp_path: Path) -> None:
    text = entries(2).replace("m1: {use: rows}", "m1: {use: rows, model: {weights: no.safetensors}}")
    project = shared(tmp_path / "head", text, str(tmp_path / "remote"))
    head = start(project, nodes)
    said, _ = head.communicate(timeout=600)
    assert head.returncode == 1, said
    assert said.count("check@m1 failed") == 1
    assert "error: check m1: no.safetensors: the weights are missing." in said
    assert "tries again" not in said
    assert (project.path / "build/reports/m0.html").is_file()
    assert len(list((project.path / "build/models/m0").rglob("model.engine"))) == 2


def test_what_is_made_here_alone_is_pushed_first(nodes: Nodes, tmp_path: Path) -> None:
    """As when a project that was built on one machine is taken to a cluster: the remote has nothing yet."""
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"))
    assert project.qntz("repro", "-j", "2").returncode == 0
    project.edit("params.yaml", "quantize: {use: int8}", "quantize: {use: int8, method: max}")
    commit(project)
    shutil.rmtree(project.path / "build")  # the cache of this machine has it
    head = start(project, nodes)
    said, _ = head.communicate(timeout=600)
    assert head.returncode == 0, said
    lines = said.splitlines()
    assert lines[0] == "8 stages are restored from the cache here"
    assert lines[1].startswith("quantize@m0-int8 to report@m0: 4 ran on "), said
    assert project.repro() == set()


def test_of_two_engines_for_the_same_inputs_each_workspace_keeps_its_own(nodes: Nodes, tmp_path: Path) -> None:
    """Large ones of TensorRT are not the same bytes twice. What a cluster makes of one comes from the head's, and not
    from the one that is in the remote."""
    project = shared(tmp_path / "head", entries(1, {"fp32": "onnxruntime"}), str(tmp_path / "remote"))
    subprocess.run(["git", "clone", "-q", project.path, tmp_path / "first"], check=True)
    first, engine = Project(tmp_path / "first"), "build/models/m0/engines/m0-fp32/model.engine"
    for one in (first, project):
        assert one.qntz("repro", "-j", "2").returncode == 0
    (first.path / engine).write_bytes((project.path / engine).read_bytes() + b"\0")
    for command in (
        ("dvc", "commit", "-f", "engine@m0-fp32"),
        ("python", "-m", "qntz.fleet.results", "engine@m0-fp32", "--"),
    ):
        assert first.run(*command).returncode == 0
    project.edit("params.yaml", "engine: {use", "verify: {tolerance: {relative: 0.5}}, engine: {use")
    commit(project, "params.yaml")
    for name in ("build", "dvc.lock"):  # its cache has its own
        assert project.run("rm", "-r", name).returncode == 0
    head = start(project, nodes)
    said, _ = head.communicate(timeout=600)
    assert head.returncode == 0, said
    lines = said.splitlines()
    assert lines[0] == "7 stages are restored from the cache here"
    assert lines[1].startswith("verify@m0-fp32 to report@m0: 2 ran on "), said
    assert project.repro() == set()
    assert (project.path / engine).read_bytes() + b"\0" == (first.path / engine).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.soak)])
def test_a_head_that_ends_leaves_no_orphan_and_goes_on(nodes: Nodes, tmp_path: Path, number: signal.Signals) -> None:
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"))
    head = start(project, nodes)
    wait_for_work(project, "stages.quantize")
    head.send_signal(number)
    said, _ = head.communicate(timeout=60)
    assert head.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), said
    wait_for_none(project, 30)
    head = start(project, nodes)
    said, _ = head.communicate(timeout=600)
    assert head.returncode == 0, said
    assert project.repro() == set()


@pytest.mark.soak
def test_two_heads_of_one_commit_both_end_well(nodes: Nodes, tmp_path: Path) -> None:
    """In one workspace they take turns; in two they share what the remote has."""
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"))
    subprocess.run(["git", "clone", "-q", project.path, tmp_path / "other"], check=True)
    other = Project(tmp_path / "other")
    heads = [start(project, nodes), start(project, nodes), start(other, nodes)]
    told = [head.communicate(timeout=900)[0] for head in heads]
    assert [head.returncode for head in heads] == [0, 0, 0], told
    assert sum("waits for the run of process" in text for text in told) == 1
    assert project.digests() == other.digests()
    assert project.repro() == other.repro() == set()


def test_split_a_broken_entry_and_a_target(nodes: Nodes, tmp_path: Path) -> None:
    """Each model with a pipeline of its own; what cannot be composed fails here, by itself; one stage alone."""
    text = (
        entries(2)
        .replace("m1: {use: rows}", "m1: {use: nothing}")
        .replace("m0-fp32: {", "m0-bad: {model: m0, quantize: {use: nothing}}\n  m0-fp32: {")
    )
    project = shared(tmp_path / "head", text, str(tmp_path / "remote"))
    assert project.qntz("pipelines", "--split").returncode == 0
    commit(project)
    head = start(project, nodes, "quantize@m0-fp32")
    said, _ = head.communicate(timeout=300)
    assert head.returncode == 0, said
    assert said.splitlines()[-1] == "6 ran"
    assert (project.path / "build/models/m0/engines/m0-fp32/quantized.onnx").is_file()
    again = start(project, nodes, "quantize@m0-fp32")
    said, _ = again.communicate(timeout=100)
    assert again.returncode == 0, said
    head = start(project, nodes)
    said, _ = head.communicate(timeout=600)
    assert head.returncode == 1, said
    assert "check@m1 failed: params.yaml: models.m1: no conf/model/nothing.yaml." in said
    assert "no conf/quantize/nothing.yaml" in said.partition("quantize@m0-bad failed")[2].partition("\n  ")[2], said
    assert "Traceback" not in said
    assert len(list((project.path / "build/models/m0").rglob("model.engine"))) == 2


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (
            lambda p: p.edit("params.yaml", "digits", "rows"),
            "error: repro: params.yaml: has changes that are not committed.",
        ),
        (lambda p: _reconfigure(p, "repository: ''\n"), "conf/fleet.yaml: repository: there is nothing to clone from."),
        (lambda p: _without_remote(p), ".dvc/config: DVC has no default remote: results travel by it."),
        (
            lambda p: _with_remote(p, "http://127.0.0.1:1/x"),
            "error: repro: DVC's remote 'shared': workers cannot share results by it: there is no run-cache over http",
        ),
        (
            lambda p: _with_remote(p, "s3://bucket/x", "version_aware"),
            "error: repro: DVC's remote 'shared': workers cannot share results by it: ",
        ),
        (
            lambda p: _reconfigure(p, "repository: https://ghp_0123456789abcdef@github.com/a/b.git\n"),
            "error: repro: conf/fleet.yaml: repository: holds a password or token, which every worker would be handed.",
        ),
        (
            lambda p: _reconfigure(p, "repositry: x\n"),
            "conf/fleet.yaml: unknown key 'repositry'. Did you mean 'repository'?",
        ),
    ],
)
def test_what_workers_would_lack_is_told_before(nodes: Nodes, tmp_path: Path, spoil: Any, why: str) -> None:
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"))
    spoil(project)
    head = start(project, nodes)
    said, _ = head.communicate(timeout=100)
    assert head.returncode == 1
    assert why in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1


def _reconfigure(project: Project, text: str) -> None:
    (project.path / "conf/fleet.yaml").write_text(text)
    commit(project)


def _without_remote(project: Project) -> None:
    assert project.dvc("remote", "default", "--unset").returncode == 0
    commit(project)


def _with_remote(project: Project, url: str, *options: str) -> None:
    for key, value in (("url", url), *((one, "true") for one in ("verify", *options))):
        assert project.dvc("remote", "modify", "shared", key, value).returncode == 0
    commit(project)


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"))
    head = start(project, Nodes("127.0.0.1:1", None))
    said, _ = head.communicate(timeout=200)
    assert head.returncode == 1
    assert said.startswith("error: repro: 127.0.0.1:1: no cluster of Ray can be reached: "), said
