"""What `rayrec serve --status` prints."""

import pytest

from rayrec.cli.service import show_service
from rayrec.serving.rollout.arms import CANARY, STABLE, Canary, Report, Rollout
from rayrec.serving.rollout.guardrails import FAILED, SLOW, Guardrails

NAMES = ("recall-1", "recall-2")
REPLICAS = [{"replica_id": name, "node_ip": "10.0.0.1", "state": "RUNNING"} for name in NAMES]
DETAILS = {"status": "RUNNING", "deployments": {"TopicRecall": {"replicas": REPLICAS}}}


def reports(rollout: Rollout, *noted: Guardrails) -> list[Report]:
    bundles = {STABLE: "a"} | ({CANARY: rollout.canary.version} if rollout.canary else {})
    return [
        Report(name, "10.0.0.1", rollout, False, "", bundles, 0.1, 0.5, 10, 1, 0, each)
        for name, each in zip(NAMES, noted, strict=True)
    ]


def test_the_status_of_a_canary_says_whom_the_bundles_failed_on_all_replicas(capsys: pytest.CaptureFixture[str]) -> None:
    noted = Guardrails("b"), Guardrails("b")
    for number, user in enumerate(("ann", "ann", "bob")):
        noted[number % 2].note(FAILED, CANARY, user)
    noted[0].note(SLOW, CANARY, "cy")
    noted[1].note(SLOW, STABLE, "dan")
    show_service(DETAILS, reports(Rollout(version="a", canary=Canary(version="b", share=0.1)), *noted), [], [])
    printed = " ".join(capsys.readouterr().out.split())
    assert "pages failed for 2 users of the canary and 0 of the others" in printed
    assert "they were slow for 1 user of the canary and 1 of the others" in printed
    show_service(DETAILS, reports(Rollout(version="a"), Guardrails(), Guardrails()), [], [])
    assert "canary began" not in " ".join(capsys.readouterr().out.split())
