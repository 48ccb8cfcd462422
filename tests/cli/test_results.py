"""The tables that commands print, and the sentences below them."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rayrec.cli.results import show_metrics
from rayrec.config import load
from rayrec.evaluation.report import Report
from rayrec.workspace.stage import Stage, run_stage
from rayrec.workspace.versions import Workspace


def test_a_warning_of_the_report_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clicks = dict.fromkeys(("auc", "gauc", "log_loss", "accuracy", "calibration_error"), 0.5)
    pages = {"with topics": {"recall": 0.0123, "ndcg": 0.0234}}
    report = Report(10, 5, 2, 0.5, {"with topics": clicks}, pages, {"with topics": {}}, warnings=["The page [/i] is poor."])

    def write(content: Report) -> Stage:
        return Stage("evaluate", lambda run: run.write_file("report.json", json.dumps(asdict(content)).encode()))

    config, workspace = load(None, [f"workspace={tmp_path}"]), Workspace(tmp_path)
    for stage in (Stage("train", lambda run: None), write(report)):
        run_stage(workspace, stage, config)
    show_metrics(config)
    printed = capsys.readouterr().out
    assert "0.0234" in printed
    assert "Warning: The page [/i] is poor." in printed
    assert "true CTR" not in printed  # nobody knows it, except in a synthetic world
    pages["with topics"]["expected_ctr"] = 0.0345
    run_stage(workspace, write(report), config, force=True)
    show_metrics(config)
    printed = capsys.readouterr().out
    assert "true CTR" in printed
    assert "0.0345" in printed
