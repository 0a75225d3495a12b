"""A real Slurm of one node on this machine: `qntz repro --on slurm`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import slurm
from tests.fleet.machines import entries, serial_beside, shared, wait_for_none, wait_for_work
from tests.pipeline.conftest import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "-"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def start(project: Project, cluster: dict[str, str], first: Path | None = None) -> subprocess.Popen[str]:
    """first: a folder of commands that come before the system's."""
    path = f"{first}:{project.env()['PATH']}" if first else project.env()["PATH"]
    return subprocess.Popen(
        [sys.executable, "-m", "qntz.cli", "repro", "--on", "slurm"],
        cwd=project.path,
        env={**cluster, **project.env(), "SLURM_CONF": cluster["SLURM_CONF"], "PATH": path},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_a_job_that_is_killed_is_given_again(count: int, cluster: dict[str, str], tmp_path: Path) -> None:
    """Its process, so that the job ends without a result. All is there at the end, as a serial run makes it."""
    project = shared(
        tmp_path / "head", entries(count), str(tmp_path / "remote"), "default: {slurm: {constraint: sm90}}\n"
    )
    serial = serial_beside(project, entries(count), split=count > 10)
    head = start(project, cluster)
    wait_for_work(project, "stages.torchscript").kill()
    said, _ = head.communicate(timeout=3000)
    print(said)
    assert head.returncode == 0, said
    assert said.count(" was lost") == 1
    assert serial.qntz("repro", "-j", "2").returncode == 0
    assert project.digests() == serial.digests()
    assert len(list((project.path / "build/models").rglob("model.engine"))) == 2 * count
    assert project.repro() == set()


def test_a_constraint_that_no_node_has_is_told_at_the_start(cluster: dict[str, str], tmp_path: Path) -> None:
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"), "default: {slurm: {constraint: sm120}}\n")
    head = start(project, cluster)
    said, _ = head.communicate(timeout=100)
    assert head.returncode == 1
    assert said.startswith("error: repro: conf/fleet.yaml: default: no worker has what is asked: "), said
    assert "Invalid feature specification" in said
    assert len(said.splitlines()) == 1


def test_what_a_person_ends_is_not_given_again(cluster: dict[str, str], tmp_path: Path) -> None:
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"))
    head = start(project, cluster)
    wait_for_work(project)
    asked = ["squeue", "-h", "-o", "%i"]
    (job,) = subprocess.run(asked, env=cluster, capture_output=True, text=True, check=True).stdout.split()
    subprocess.run(["scancel", job], env=cluster, check=True)
    said, _ = head.communicate(timeout=200)
    assert head.returncode == 1, said
    assert said.startswith("check@m0 failed (")
    assert said.splitlines()[1] == f"  Slurm's job {job} ended: CANCELLED"
    assert "tries again" not in said
    wait_for_none(project, 40)


def test_a_job_that_was_taken_without_an_answer_is_not_done_beside_another(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    """As where Slurm's controller is slow: sbatch gives up, and the job is there. It is ended, and given again."""
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"))
    (tmp_path / "bin").mkdir()
    sbatch, taken = tmp_path / "bin/sbatch", tmp_path / "taken"
    sbatch.write_text(
        f'#!/bin/sh\nPATH=$(echo $PATH | cut -d: -f2-)\ncase $* in *--test-only*) exec sbatch "$@";; esac\n'
        f'[ -e {taken} ] && exec sbatch "$@"\nsbatch "$@" > {taken}\n'
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2\nexit 1\n"
    )
    sbatch.chmod(0o755)
    head = start(project, cluster, tmp_path / "bin")
    said, _ = head.communicate(timeout=300)
    assert head.returncode == 0, said
    assert "check@m0 to report@m0 waits: sbatch: Slurm does not answer: Batch job submission failed: Socket" in said
    assert sum(map(int, re.findall(r"(\d+) (?:ran|restored)", said.splitlines()[-1]))) == 12
    job = taken.read_text().strip()
    asked = ["scontrol", "show", "job", job]
    assert "JobState=CANCELLED" in subprocess.run(asked, env=cluster, capture_output=True, text=True, check=True).stdout


def test_a_head_that_ends_leaves_no_job(cluster: dict[str, str], tmp_path: Path) -> None:
    """One that is killed leaves its jobs to the next, which ends them first."""
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"))
    head = start(project, cluster)
    wait_for_work(project)
    head.send_signal(signal.SIGTERM)
    assert head.wait(60) == 128 + signal.SIGTERM, head.communicate()[0]
    wait_for_none(project, 40)
    head = start(project, cluster)
    left = wait_for_work(project)
    os.kill(head.pid, signal.SIGKILL)
    head.wait()
    assert left.is_running()
    head = start(project, cluster)
    said, _ = head.communicate(timeout=600)
    assert head.returncode == 0, said
    assert not left.is_running()
    assert project.repro() == set()


def test_no_slurm(tmp_path: Path) -> None:
    project = shared(tmp_path / "head", entries(1), str(tmp_path / "remote"))
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=none\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\nNodeName=x\n")
    head = start(project, {**os.environ, "SLURM_CONF": str(conf)})
    said, _ = head.communicate(timeout=200)
    assert head.returncode == 1
    assert said.startswith("error: repro: sinfo: Slurm does not answer: "), said
    assert len(said.splitlines()) == 1
