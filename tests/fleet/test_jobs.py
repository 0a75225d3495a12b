"""Which stages go together, and what has to wait for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from qntz.fleet.jobs import CPU, GPU, Job, give_up, jobs_of, ready

ORDER = ["check@m", "export@m", "quantize@a", "engine@a", "verify@a", "quantize@b", "engine@b", "verify@b", "report@m"]
BEFORE = {
    "check@m": {"compose"},
    "export@m": {"compose", "check@m"},
    "quantize@a": {"export@m"},
    "engine@a": {"quantize@a"},
    "verify@a": {"export@m", "quantize@a", "engine@a"},
    "quantize@b": {"export@m"},
    "engine@b": {"quantize@b"},
    "verify@b": {"export@m", "quantize@b", "engine@b"},
    "report@m": {"check@m", "export@m", "verify@a", "verify@b"},
}


def made(order: Sequence[str], before: Mapping[str, set[str]], kinds: Mapping[str, str] | None = None) -> list[Job]:
    return jobs_of(order, before, kinds or dict.fromkeys(order, CPU), dict.fromkeys(order, 1))


def test_stages_of_one_entry_are_one_job() -> None:
    jobs = made(ORDER, BEFORE)
    assert [job.stages for job in jobs] == [ORDER[:2], ORDER[2:5], ORDER[5:8], ORDER[8:]]
    assert [job.needs for job in jobs] == [set(), {0}, {0}, {0, 1, 2}]
    assert ready(jobs, range(4), ()) == [0]
    assert ready(jobs, [1, 2, 3], {0}) == [1, 2]
    assert ready(jobs, [3], {0, 1}) == []
    assert ready(jobs, [3], {0, 1, 2}) == [3]


def test_what_is_left_out_is_taken_for_done() -> None:
    jobs = made(["engine@b", "verify@b", "report@m"], BEFORE)
    assert [(job.stages, job.needs) for job in jobs] == [(["engine@b", "verify@b"], set()), (["report@m"], {0})]


def test_a_stage_on_the_gpu_stands_alone() -> None:
    kinds = {one: GPU if one.startswith("engine") else CPU for one in ORDER}
    jobs = made(ORDER, BEFORE, kinds)
    assert [job.stages for job in jobs[1:4]] == [["quantize@a"], ["engine@a"], ["verify@a"]]
    assert [job.kind for job in jobs[1:4]] == [CPU, GPU, CPU]


def test_a_stage_of_the_users_own_in_between_parts_a_job() -> None:
    """Else the two would wait for one another."""
    before = {**BEFORE, "sign": {"quantize@a"}, "engine@a": {"quantize@a", "sign"}}
    jobs = made([*ORDER[:3], "sign", *ORDER[3:]], before)
    assert [job.stages for job in jobs[1:4]] == [["quantize@a"], ["sign"], ["engine@a", "verify@a"]]
    assert [job.needs for job in jobs[1:4]] == [{0}, {1}, {1, 2}]


def test_a_job_takes_what_its_largest_stage_takes() -> None:
    jobs = jobs_of(ORDER[:2], BEFORE, dict.fromkeys(ORDER, CPU), {"check@m": 5, "export@m": 3})
    assert [job.memory for job in jobs] == [5]


def test_of_a_job_that_fails_only_what_needs_its_bad_stages_is_given_up() -> None:
    """A task of all the graphs and one of all the engines, as where these ask for another worker."""
    kinds = {one: GPU if one.partition("@")[0] in ("engine", "verify", "report") else CPU for one in ORDER}
    order = sorted(ORDER, key=lambda one: kinds[one] == GPU)
    jobs = jobs_of(order, BEFORE, kinds, dict.fromkeys(order, 1), lambda _: "m")
    assert [len(job.stages) for job in jobs] == [4, 5]
    waiting = [1]
    assert give_up(0, ["quantize@b"], jobs, waiting, BEFORE) == ["engine@b", "verify@b", "report@m"]
    assert (jobs[1].stages, waiting) == (["engine@a", "verify@a"], [1])
    assert ready(jobs, waiting, ()) == [1]  # what it needs of the one that failed is made
    assert give_up(0, ["quantize@a"], jobs, waiting, BEFORE) == ["engine@a", "verify@a"]
    assert waiting == []


def test_a_job_given_up_is_waited_for_no_more_but_what_it_waits_for_is() -> None:
    before = {"b": {"a"}, "c": {"b"}, "d": {"b", "c"}}
    jobs = [Job(["a"], CPU, 1), Job(["b"], CPU, 1, {0}), Job(["c"], CPU, 1, {1}), Job(["d", "e"], CPU, 1, {2})]
    waiting = [2, 3]
    assert give_up(9, ["x"], jobs, waiting, {**before, "c": {"b", "x"}}) == ["c", "d"]
    assert (waiting, jobs[3].stages, jobs[3].needs) == ([3], ["e"], {1})


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[str], dict[str, set[str]]]:
    names = draw(st.lists(st.sampled_from(["own", *ORDER, "check@n", "quantize@c", "extra"]), unique=True, min_size=1))
    before = {name: draw(st.sets(st.sampled_from(names[:at]))) if at else set() for at, name in enumerate(names)}
    return names, before


@given(graphs())
def test_any_graph_is_gone_through_in_order(graph: tuple[list[str], dict[str, set[str]]]) -> None:
    """Played through, one job after the other as they become ready, each stage comes once, after all that it needs."""
    order, before = graph
    jobs = made(order, before)
    waiting, done, gone = list(range(len(jobs))), set[int](), list[str]()
    while waiting:
        number = ready(jobs, waiting, done)[-1]
        for stage in jobs[number].stages:
            assert before[stage] <= {*gone}
            gone.append(stage)
        waiting.remove(number)
        done.add(number)
    assert sorted(gone) == sorted(order)


@given(graphs(), st.data())
def test_of_any_graph_what_does_not_need_what_failed_is_made(
    graph: tuple[list[str], dict[str, set[str]]], data: st.DataObject
) -> None:
    order, before = graph
    bad = data.draw(st.sets(st.sampled_from(order)), label="bad")
    jobs = made(order, before, {name: data.draw(st.sampled_from([CPU, GPU])) for name in order})
    waiting, done, gone, lost = list(range(len(jobs))), set[int](), set[str](), set[str]()
    while waiting:
        number = data.draw(st.sampled_from(ready(jobs, waiting, done)))
        waiting.remove(number)
        whole = True
        for stage in jobs[number].stages:
            assert before[stage] <= gone | lost
            if stage in bad or before[stage] & lost:  # as DVC with --keep-going
                lost.add(stage)
                whole = False
            else:
                gone.add(stage)
        if whole:
            done.add(number)
        else:
            lost |= {*give_up(number, [s for s in jobs[number].stages if s in lost], jobs, waiting, before)}
    expected = set[str]()
    for name in order:
        if name in bad or before[name] & expected:
            expected.add(name)
    assert lost == expected
    assert gone == {*order} - expected
