"""What cluster.json says about a head. Without Ray."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rayrec.config import load
from rayrec.serving.cluster import connection
from rayrec.serving.cluster.head import Address, ClusterError

# As version 0.1 wrote it.
RECORD = {"gcs": "127.0.0.1:1", "dashboard": "http://127.0.0.1:8265", "folder": "/nowhere", "session": 7, "keys": ""}


def test_a_record_is_read(tmp_path: Path) -> None:
    record = tmp_path / "cluster.json"
    record.write_text(json.dumps(RECORD, indent=1))
    assert asdict(Address.read(record)) == RECORD


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"gcs": "127.0.0.1:1"}), json.dumps(RECORD | {"port": 1})])
def test_a_record_that_can_not_be_read_is_named(tmp_path: Path, content: str) -> None:
    config = load(None, [f"workspace={tmp_path}"])
    record = tmp_path / "state" / "cluster.json"
    record.parent.mkdir()
    record.write_text(content)
    with pytest.raises(ClusterError, match=r"state/cluster\.json does not describe a Ray head .* delete the file"):
        connection.stop(config)
    assert connection.running(config) is None
