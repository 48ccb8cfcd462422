"""What the tests of data sets share: running the stage `ingest` on its own, and writing small input files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayrec.config import Config, Section
from rayrec.datasets.ingestion import ingest, sources
from rayrec.workspace import Stage, Workspace, settings_of

WRITES = ("catalog", "interactions", "users", "truth_topics", "truth_clicks", "truth_preferences")
INGEST = Stage("ingest", ingest, writes=WRITES, settings=lambda config: settings_of(config.dataset), sources=sources)


@pytest.fixture
def ingest_stage() -> Stage:
    return INGEST


@pytest.fixture
def ingested(tmp_path: Path) -> Callable[..., Workspace]:
    """Runs the stage on a dataset section and returns the workspace; `most_rejects` is 1 unless told otherwise."""

    def run(dataset: Section, uri: str | None = None, **settings: Any) -> Workspace:
        workspace = Workspace(uri or tmp_path / "workspace")
        workspace.run(INGEST, Config.model_validate({"dataset": dataset.model_dump(), "most_rejects": 1} | settings))
        return workspace

    return run


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    """Writes a file into the test's own folder and returns its path."""

    def write(name: str, text: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write
