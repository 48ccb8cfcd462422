"""Where the events of a config are."""

from pathlib import Path

import pytest

from rayrec.config import ConfigError, load
from rayrec.serving.state.opening import open_store, state_path


def test_where_the_events_are() -> None:
    assert state_path(load(None, ["workspace=/w"])) == Path("/w/state/events.db")
    assert state_path(load(None, ["workspace=s3://bucket/w", "serving.state=/w/events.db"])) == Path("/w/events.db")
    with pytest.raises(ConfigError, match=r"s3://bucket/w: set serving\.state to a local file"):
        state_path(load(None, ["workspace=s3://bucket/w"]))
    with pytest.raises(ConfigError, match="the events are in Redis"):
        state_path(load(None, ["serving.state=redis://localhost"]))
    with pytest.raises(ConfigError, match="neither a file nor redis://"):
        open_store(load(None, ["serving.state=s3://bucket/events.db"]))
