"""What a worker has to have for which stage, by conf/fleet.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qntz.compose import Composition
from qntz.errors import ConfigError
from qntz.fleet.jobs import jobs_of
from qntz.fleet.requests import FleetConfig, Request, read_fleet, requests_of
from tests.fleet.test_jobs import BEFORE, ORDER

HOPPER = "targets:\n  - {backend: tensorrt, compute_capabilities: [sm90], ray: {num_gpus: 1}, slurm: {gres: 'gpu:1'}}\n"


def written(root: Path, text: str) -> FleetConfig:
    (root / "conf").mkdir(exist_ok=True)
    (root / "conf/fleet.yaml").write_text(text)
    return read_fleet(root)


def composition(seconds: float = 0.0, **backends: Any) -> Composition:
    """One model "m"; of each engine the backend and its compute capabilities."""
    engines = {
        name: {"model_name": "m", "engine": {"backend": backend, "compute_capabilities": list(capabilities)}}
        for name, (backend, *capabilities) in backends.items()
    }
    return Composition({"m": {"report": {"engines": list(engines), "latency_seconds": seconds}}}, engines)


def test_nothing_is_asked_where_nothing_is_said(tmp_path: Path) -> None:
    config = read_fleet(tmp_path)
    assert config == FleetConfig()
    found = requests_of(ORDER, composition(a=["tensorrt_rtx"], b=["onnxruntime"]), config)
    assert found == dict.fromkeys(ORDER, "default")
    assert config.request("default") == Request()
    assert written(tmp_path, "# nothing yet\n") == FleetConfig()


def test_an_engine_goes_to_its_gpu_and_the_rest_to_anybody(tmp_path: Path) -> None:
    config = written(tmp_path, HOPPER)
    both = composition(a=["tensorrt", "sm90"], b=["tensorrt_rtx", "sm90"])
    found = requests_of(ORDER, both, config)
    hopper = "0 (tensorrt, sm90)"
    assert {stage for stage, asked in found.items() if asked == hopper} == {"engine@a", "verify@a"}
    assert {*found.values()} == {hopper, "default"}
    assert config.request(hopper).ray == {"num_gpus": 1}
    assert config.request(hopper).slurm == {"gres": "gpu:1"}
    timed = requests_of(["report@m"], composition(1.0, a=["tensorrt", "sm90"], b=["tensorrt_rtx"]), config)
    assert timed == {"report@m": hopper}


def test_all_of_a_model_that_anybody_can_do_is_one_task(tmp_path: Path) -> None:
    config = written(tmp_path, HOPPER)
    plain = requests_of(ORDER, composition(a=["onnxruntime"], b=["tensorrt_rtx"]), config)
    jobs = jobs_of(ORDER, BEFORE, plain, dict.fromkeys(ORDER, 0), lambda stage: "m")
    assert [job.stages for job in jobs] == [ORDER]
    split = requests_of(ORDER, composition(a=["tensorrt", "sm90"], b=["tensorrt_rtx"]), config)
    jobs = jobs_of(ORDER, BEFORE, split, dict.fromkeys(ORDER, 0), lambda stage: "m")
    on_gpu = ["engine@a", "verify@a"]
    first = [stage for stage in ORDER if stage not in (*on_gpu, "report@m")]
    assert [job.stages for job in jobs] == [first, on_gpu, ["report@m"]]
    assert [job.needs for job in jobs] == [set(), {0}, {0, 1}]


def test_the_first_target_that_fits_holds(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        "targets:\n"
        "  - {backend: tensorrt, compute_capabilities: [sm90, sm89], ray: {num_gpus: 2}}\n"
        "  - {backend: 'tensorrt*', ray: {num_gpus: 1}}\n"
        "  - {backend: tensorrt, ray: {num_gpus: 4}}\n",
    )
    named = config.named({"backend": "tensorrt", "compute_capabilities": ["sm89", "sm90"]})
    assert config.request(named).ray == {"num_gpus": 2}
    named = config.named({"backend": "tensorrt", "compute_capabilities": ["sm90"]})
    assert config.request(named).ray == {"num_gpus": 1}
    assert config.named({"backend": "onnxruntime", "compute_capabilities": []}) == "default"


def test_an_engine_of_a_gpu_that_no_target_is_for_is_refused(tmp_path: Path) -> None:
    config = written(tmp_path, HOPPER)
    with pytest.raises(ConfigError) as refused:
        requests_of(["engine@a"], composition(a=["tensorrt", "sm86"]), config)
    assert str(refused.value) == (
        "conf/fleet.yaml: targets: a is built by tensorrt for sm86: none of them is for that, so that no worker could be "
        "asked for. Add {backend: tensorrt, compute_capabilities: [sm86], ray: ..., slurm: ...}."
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("target: []\n", "conf/fleet.yaml: unknown key 'target'. Did you mean 'targets'?"),
        ("targets: {backend: tensorrt}\n", "conf/fleet.yaml: targets: {'backend': 'tensorrt'} is not a list."),
        ("default: {ray: {gpus: 1}}\n", "conf/fleet.yaml: default.ray: gpus is not asked of Ray. It takes num_cpus"),
        ("default: {ray: {num_gpus: -1}}\n", "conf/fleet.yaml: default.ray.num_gpus: -1 is no amount."),
        ("default: {ray: {num_cpus: true}}\n", "conf/fleet.yaml: default.ray.num_cpus: True is no amount."),
        ("default: {ray: {resources: sm90}}\n", "conf/fleet.yaml: default.ray.resources: 'sm90' is not a mapping."),
        (
            "default: {ray: {resources: {sm90: .inf}}}\n",
            "conf/fleet.yaml: default.ray.resources.sm90: inf is no amount. Give 0, or 0.0001 and more.",
        ),
        (
            "default: {slurm: {array: 1-3}}\n",
            "conf/fleet.yaml: default.slurm: array is not asked of Slurm: qntz sets it.",
        ),
        ("default: {slurm: {no-requeue: true}}\n", "conf/fleet.yaml: default.slurm: no-requeue is not asked of Slurm"),
        ("default: {slurm: {gres: [gpu]}}\n", "conf/fleet.yaml: default.slurm.gres: ['gpu'] is no option of sbatch."),
        (
            "targets: [{backend: tensort}]\n",
            "conf/fleet.yaml: targets.0.backend: no backend 'tensort'. Did you mean 'tensorrt'?",
        ),
        (
            "targets: [{backend: 'tensorrt*'}, {compute_capabilities: [sm1]}]\n",
            "conf/fleet.yaml: targets.compute_capabilities: unknown value 'sm1'.",
        ),
        (
            "default: {ray: {resources: {GPU: 1}}}\n",
            "conf/fleet.yaml: default.ray.resources: GPU is no resource of one's",
        ),
        ("default: {ray: {num_gpus: 0.00001}}\n", "conf/fleet.yaml: default.ray.num_gpus: 1e-05 is no amount."),
        ("default: {slurm: {1: [2]}}\n", "conf/fleet.yaml: default.slurm.1: [2] is no option of sbatch."),
        ("retries: -1\n", "conf/fleet.yaml: retries: -1 is less than 0."),
        ("retries: many\n", "conf/fleet.yaml: retries: 'many' is not of type int."),
        ("backoff_seconds: .nan\n", "conf/fleet.yaml: backoff_seconds: nan is no number of seconds."),
        ("- a\n", "conf/fleet.yaml: ['a'] is not a mapping."),
        ("retries: 1\nretries: 2\n", "conf/fleet.yaml"),
    ],
)
def test_what_is_wrong_is_told_by_its_key(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        written(tmp_path, text)
    assert str(refused.value).startswith(why)
