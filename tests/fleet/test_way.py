"""Of what is said where the way to another machine fails: what is for good, and which line tells why."""

from __future__ import annotations

import pytest

from qntz.fleet.way import may_be_there_again, telling

CUT = "ERROR: unexpected error - Could not connect to the endpoint URL: http://127.0.0.1:1/"
FULL = "ERROR: failed to transfer 'md5: 1': [Errno 28] No space left on device"
DENIED = "ERROR: unexpected error - An error occurred (AccessDenied) when calling the PutObject operation"


@pytest.mark.parametrize(
    ("lines", "again", "told"),
    [
        ([CUT], True, CUT),
        (["Everything is up to date", CUT, "see above"], True, CUT),
        ([CUT, FULL], False, FULL),
        (["ERROR: failed to push data to the cloud - 1 files failed", DENIED], False, DENIED),
        (["WARNING: x", "ERROR: no such stage"], False, "ERROR: no such stage"),
        (
            ["ERROR: another worker has pushed engine@m0 first"],
            True,
            "ERROR: another worker has pushed engine@m0 first",
        ),
        (["WARNING: Stages 'check@connect4' will be skipped", "ERROR: no data"], False, "ERROR: no data"),
        (["ERROR: EndpointConnectionError: Could not reach"], True, "ERROR: EndpointConnectionError: Could not reach"),
        (
            ["WARNING: Failed to pull run cache: Connection refused"],
            True,
            "Failed to pull run cache: Connection refused",
        ),
        ([""], False, ""),
    ],
)
def test_what_is_told(lines: list[str], again: bool, told: str) -> None:
    text = "\n".join(lines)
    assert may_be_there_again(text) is again
    assert telling(text) == told.removeprefix("ERROR: ")
