"""Two digests of a stage's code are told apart by the names of the modules that differ, as long as both are known."""

from __future__ import annotations

import os
from pathlib import Path

from qntz import parts
from qntz.compose import compose, composed_entries


def test_the_module_that_changed_is_found_by_two_digests(project: Path) -> None:
    before = compose(project).models["digits"]["inputs"]
    with (project / "qntz/simplify.py").open("a") as file:
        file.write("\nEXTRA = 1\n")
    with (project / "examples/digits/model.py").open("a") as file:
        file.write("\nEXTRA = 1\n")
    after = compose(project).models["digits"]["inputs"]
    for stage, key, module in (("simplify", "code", "qntz.simplify"), ("check", "model", "examples.digits.model")):
        old, new = (parts.kept(project, inputs[stage][key]) for inputs in (before, after))
        assert old
        assert new
        assert {name for name in {*old, *new} if old.get(name) != new.get(name)} == {module}
    assert before["export"]["code"] == after["export"]["code"]
    assert "stages.export" in (parts.kept(project, before["export"]["code"]) or {})


def test_composing_in_memory_writes_no_file_of_an_entry(project: Path) -> None:
    in_memory = composed_entries(project)
    assert not (project / "build/config").exists()
    assert compose(project).models == in_memory.models
    assert (project / "build/config/models/digits.yaml").is_file()


def test_a_digest_that_is_not_known_and_damage_are_as_good_as_nothing(tmp_path: Path) -> None:
    assert parts.kept(tmp_path, "0" * 64) is None
    for index, text in enumerate((b"{", b"[]", b'{"000": [7], "pairs": []}', b"\xff")):
        (tmp_path / parts.FOLDER).mkdir(parents=True, exist_ok=True)
        (tmp_path / parts.FOLDER / f"{index}.json").write_bytes(text)
    assert parts.kept(tmp_path, "000") is None
    parts.keep(tmp_path, {"000": {"one": "1"}})
    assert parts.kept(tmp_path, "000") == {"one": "1"}


def test_what_was_not_composed_for_longest_goes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(parts, "MOST", 2)
    for index, whole in enumerate("abc"):
        parts.keep(tmp_path, {whole: {whole: "1"}})
        for path in (tmp_path / parts.FOLDER).iterdir():  # each is as old as it stands in this order
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
        if index == 1:
            parts.keep(tmp_path, {"a": {"a": "1"}})  # composed again
    assert [parts.kept(tmp_path, whole) for whole in "abc"] == [{"a": "1"}, None, {"c": "1"}]
