"""Each key of the configuration with values of every shape: it is taken, or refused in one line, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qntz.errors import QntzError
from qntz.hydra_compose import compose_entry
from tests.mutation.mutations import leaves

VALUES: tuple[Any, ...] = (
    *("x", "", "1e3", -1, 0, 1.5, 1e9, 10**30, float("nan"), float("inf"), True, None),
    *([], [1], [None], [True], [[1]], [{"a": 1}], [{"a": [1, 2]}], [{"batch": 3}], [{"batch": {"min": [1]}}]),
    *({}, {"a": 1}, {"a": {"b": 1}}, {"a": [1]}, {"batch": 3}, {"source": 3}, {"source": "npz", "folder": [1]}),
    *({"image": {"shape": 3}}, {"image": {"dtype": "float32", "shape": ["batch", {}]}}),
    *({"digits-int8": {"sqnr_db": [1]}}, {"*": 3}, {"_target_": "os.system"}, {"_target_": 3}),
)
KEYS = sorted(key for key, _, _ in leaves())


@pytest.mark.slow
@pytest.mark.parametrize("group", sorted({key.partition(".")[0] for key in KEYS}))
def test_any_value_of_any_key(group: str) -> None:
    refused, taken, bases = list[str](), 0, dict[Any, Any]()
    for key in (key for key in KEYS if key.partition(".")[0] == group):
        for value in VALUES:
            *parents, last = key.split(".")
            entry: dict[str, Any] = {}
            place = entry
            for part in parents:
                place = place.setdefault(part, {})
            place[last] = value
            try:
                compose_entry(Path("conf"), {"model": "digits"}, [("params.yaml: models.x", entry)], bases)
                taken += 1
            except QntzError as error:
                refused.append(str(error))
    assert len(refused) > taken > 0
    assert not [line for line in refused if "\n" in line or not line.endswith((".", "?"))]
