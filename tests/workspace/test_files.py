"""JSON as every reader of it can read it, and files that can't be opened."""

import json
import math
import os
import sys
from pathlib import Path

import pytest

from rayrec.errors import RayrecError
from rayrec.workspace.files import from_json, open_filesystem, open_input, to_json, with_nan

VALUES = {
    "auc": math.nan,
    "loss": [0.5, math.inf],
    "parts": {"clicks": 3, "rate": -math.inf, "name": "ä", "none": None},
    "pair": (1, 2),
}


def refuse(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def test_what_is_not_finite_is_null() -> None:
    text = to_json(VALUES)
    expected = {"auc": None, "loss": [0.5, None], "parts": {"clicks": 3, "rate": None, "name": "ä", "none": None}, "pair": [1, 2]}
    assert json.loads(text, parse_constant=refuse) == expected == from_json(text)


def test_the_nan_of_older_versions_is_read_as_null() -> None:
    assert from_json(b'{"auc": NaN, "k": [Infinity, -Infinity, 1]}') == {"auc": None, "k": [None, None, 1]}


def test_null_is_nan_where_one_calculates() -> None:
    found = with_nan(from_json(to_json(VALUES)))
    assert math.isnan(found["auc"])
    assert math.isnan(found["loss"][1])
    assert found["loss"][0] == pytest.approx(0.5)
    assert found["parts"]["clicks"] == 3


def test_a_path_that_leads_nowhere_is_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path, problem in (("~no-such-user/x", "home directory"), ("a\0b", "null byte"), ("foo://x", "foo")):
        with pytest.raises(ValueError, match=problem):
            open_filesystem(path)
    if sys.version_info < (3, 13):  # where later versions find out when the file is opened
        with pytest.raises(ValueError, match="loop"):
            open_filesystem(tmp_path / "loop")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(RayrecError, match=r"pipe.csv is no regular file but a pipe, a socket or a device; name a file"):
        open_input(str(tmp_path / "pipe.csv"), RayrecError)
