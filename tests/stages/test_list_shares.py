"""What is measured shard by shard, by a model that each piece of work loads, is what is measured of all users at once."""

from pathlib import Path

import numpy as np
import pytest

from rayrec.collaborative.held_out import HeldOut, Splits
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.models import build
from rayrec.config import Lists, load
from rayrec.data.shards import EncodedLog
from rayrec.stages import encode, execution
from rayrec.stages.kept_runs import Place
from rayrec.stages.list_shares import totals_of_model
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.training.small_log import ingest


@pytest.mark.parametrize(("held_out", "negatives"), [("split", None), ("last_click", None), ("last_click", 20)])
def test_shares_of_a_large_log_add_up(
    held_out: HeldOut, negatives: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = Lists(k=[5], held_out=held_out, negatives=negatives)
    config = load(None, [f"workspace={tmp_path}", "collaborative={model: ease}"])
    config = config.model_copy(update={"comparison": config.comparison.model_copy(update={"lists": lists})})
    workspace = Workspace(config.workspace)
    run_stage(workspace, ingest(1500), config)
    run_stage(workspace, encode.STAGE, config)
    splits = Splits.read(workspace, EncodedLog.open(workspace.fs, workspace.folder("encode")), held_out)
    assert config.collaborative is not None
    model = build(config.collaborative)
    model.fit(splits.feedback, Fitting())
    place = Place(config.workspace, workspace.folder("encode"), str(tmp_path / "compare"))
    whole = totals_of_model(place, config, model, splits, "test")
    monkeypatch.setattr(execution, "ALONE_ROWS", 0)
    monkeypatch.setattr(execution, "executor_for", lambda rows, config: execution.in_this_process)
    monkeypatch.setattr("rayrec.stages.list_shares.GROUP_ROWS", 200)
    shares = totals_of_model(place, config, model, splits, "test")
    assert shares.users == whole.users > 0
    np.testing.assert_allclose(shares.sums, whole.sums)
    np.testing.assert_array_equal(shares.listed, whole.listed)
    assert not list((tmp_path / "compare").iterdir())  # the model was only there for the time being
