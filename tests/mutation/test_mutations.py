"""No missed rebuild and no needless one: each input of each stage changed, one at a time and in sequences."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qntz.compose import MEMO, compose
from qntz.config import READS, STAGES, Config
from tests.mutation import keys
from tests.mutation.harness import Composed, Reproduced, applied, dependencies, new_subject, sample, wrong
from tests.mutation.mutations import Mutation, all_mutations, leaves
from tests.pipeline.conftest import Project

FEW = 41  # every so many-th mutation in the quick test


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_subject(tmp_path_factory.mktemp("mutated").resolve() / "project")


@pytest.fixture(scope="module")
def mutations() -> list[Mutation]:
    return all_mutations()


def test_every_section_of_the_configuration_is_mutated() -> None:
    groups = {key.partition(".")[0] for key, _, _ in leaves()}
    assert groups == {one.name for one in dataclasses.fields(Config)}


def test_what_stages_may_read_is_what_the_table_says() -> None:
    """The table by hand and the grants of qntz.config: neither has a stage that the other lacks."""
    for key, _, _ in leaves():
        may = {stage for stage in STAGES if any(f"{key}.".startswith(f"{read}.") for read in READS[stage])}
        if key != "model.extra_inputs":  # it is read by code, and stands in the keys by its content
            assert may == set(keys.stages_of_key(key)), key


def test_a_few(subject: Path, mutations: list[Mutation]) -> None:
    run = Composed(subject)
    outcomes = [run(one) for one in mutations[::FEW]]
    assert len(outcomes) > 12
    assert not wrong(outcomes)


@pytest.mark.slow
def test_all(subject: Path, mutations: list[Mutation]) -> None:
    run = Composed(subject)
    outcomes = [run(one) for one in mutations]
    assert len(outcomes) >= 300
    assert not wrong(outcomes)


@pytest.mark.slow
def test_some_by_a_real_repro(default: Project, tmp_path: Path, mutations: list[Mutation]) -> None:
    """`make mutations` tries more."""
    shutil.copytree(default.path, tmp_path / "project", symlinks=True)
    run = Reproduced(Project(tmp_path / "project"))
    assert not wrong([run(one) for one in sample(mutations, 4, seed=1)])


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_memory_of_earlier_edits_changes_nothing(
    subject: Path, mutations: list[Mutation], data: st.DataObject
) -> None:
    """After any sequence of edits, kept or undone, compose says what it says without its memo."""
    edits = [one for one in mutations if not one.before and one.kind != "tool"]
    chosen = data.draw(st.lists(st.sampled_from(range(len(edits))), min_size=1, max_size=4, unique=True))
    with contextlib.ExitStack() as stack:
        for index in chosen:
            if data.draw(st.booleans()):
                stack.enter_context(applied(edits[index], subject))
            else:
                with applied(edits[index], subject):
                    compose(subject)
            compose(subject)
        remembered = dependencies(subject)
        shutil.rmtree(subject / MEMO.parent)
        compose(subject)
        assert dependencies(subject) == remembered
