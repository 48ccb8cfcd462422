"""The service on a real Ray head with HAProxy, as `rayrec serve` starts it. All tests use one head, in their order."""

import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest
import yaml

from rayrec.config import Config, ConfigError, Ranker, dump
from rayrec.data.loading import RANKER
from rayrec.ranking.scorer import Scorer
from rayrec.serving.bundle import BundleError, locate
from rayrec.serving.cluster import connection, processes
from rayrec.serving.cluster import service as cluster
from rayrec.serving.cluster.head import Address
from rayrec.serving.cluster.service import ClusterError
from rayrec.serving.rollout.decision import users_that_prove
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace, WorkspaceError
from tests.serving.cluster.broken_bundles import inverted, lose, publish, spoil
from tests.serving.cluster.trials import SHARE, People, Trial, is_canary, people_needed, readers
from tests.serving.music_world import build_music_world
from tests.serving.small_world import TRAIN, publish_catalog_of, publish_without_log
from tests.serving.sockets import listening

ROOT = Path(__file__).parents[3]
PUBLISH = load_stage("publish")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """With music, and with the space of search in its bundles, but without a deployment that searches."""
    settings = {"serving.port": processes.free_ports(1)[0], "serving.slow_s": 10}  # slower than any answer of a busy machine
    config = build_music_world(tmp_path_factory.mktemp("served"), **settings)
    config = config.model_copy(update={"search": None})
    yield config
    connection.stop(config)


@pytest.fixture(scope="module")
def service(config: Config) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.serve(config), timeout=30) as client:
        yield client


def recommend(service: httpx.Client, user: str, k: int = 10) -> list[dict]:
    answer = service.post("/v1/recommend", json={"user_id": user, "k": k})
    assert answer.status_code == 200, answer.text
    return answer.json()["videos"]


def test_recommendations_over_http(service: httpx.Client) -> None:
    videos = recommend(service, "u1", k=40)
    assert 20 < len({video["video_id"] for video in videos}) == len(videos)
    assert all(0 < video["score"] < 1 for video in videos)
    assert {video["why"] for video in videos} == {"topic: sea, beach", "popular", "new", "again"}


def test_events_change_the_next_answer(service: httpx.Client) -> None:
    assert {video["why"] for video in recommend(service, "new", k=1)} <= {"popular", "new"}
    clicks = [{"event_id": f"e{n}", "user_id": "new", "video_id": f"v{n}", "kind": "click"} for n in (3, 7, 11)]
    assert service.post("/v1/events", json={"events": clicks}).json() == {"received": 3, "new": 3, "duplicates": [], "refused": []}
    page = recommend(service, "new", k=40)
    assert "topic: cake, sugar" in {video["why"] for video in page}
    assert not {"v3", "v7", "v11"} & {video["video_id"] for video in page if video["why"] != "again"}


def test_media_errors_and_page_come_through_haproxy(service: httpx.Client) -> None:
    part = service.get("/v1/videos/v6/file", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    track = service.post("/v1/music", json={"user_id": "u3", "video_id": "v2", "k": 1}).json()["tracks"][0]
    assert 0 < track["fit"] <= 1
    part = service.get("/v1/tracks/t0/file", headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"RIFF")
    assert "feed.js" in service.get("/").text
    refused = service.post("/v1/recommend", content=b" " * 10**6, headers={"Content-Type": "application/json"})
    assert (refused.status_code, list(refused.json())) == (413, ["error"])
    assert service.get("/healthz", headers={"Host": "evil.example"}).status_code == 421
    ids = [service.get("/healthz", headers={"X-Request-Id": id}).headers.get_list("x-request-id") for id in ("trace-7", "x" * 200)]
    assert ids[0] == ["trace-7"]
    assert [len(id) for id in ids[1]] == [32]


def test_nothing_listens_beyond_this_machine(service: httpx.Client, config: Config) -> None:
    address = connection.running(config)
    assert address is not None
    sockets = listening(address.processes())
    owners = " ".join(sockets.values())
    assert len(sockets) > 10
    for name in ("haproxy", "raylet", "gcs_server", "NeuralRanker", "TopicRecall", "DashboardAgent"):
        assert name in owners
    assert ("127.0.0.1", config.serving.port) in sockets
    assert {ip for ip, _ in sockets} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1", address.ingress}
    # What takes requests listens where no other service does.
    assert {ip for (ip, port), owner in sockets.items() if port == 30000} == {address.ingress}


def test_a_copy_of_the_workspace_has_no_service(service: httpx.Client, config: Config, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(config.workspace, tmp_path / "copy"))
    copied = config.model_copy(update={"workspace": str(copy)})
    assert connection.running(copied) is None
    with pytest.raises(ClusterError, match="the service does not run"):
        cluster.current_rollout(copied)
    with pytest.raises(ClusterError, match=f"port {config.serving.port} of 127.0.0.1 is in use by another program"):
        cluster.serve(copied)
    assert not connection.stop(copied)
    assert len(recommend(service, "u3", k=3)) == 3


def test_serving_again_moves_the_running_replicas_to_the_new_bundle(service: httpx.Client, config: Config) -> None:
    address = connection.running(config)
    assert address is not None
    replicas = {process.pid for process in address.processes() if "ServeReplica" in process.name()}
    manifest, _ = run_stage(Workspace(config.workspace), PUBLISH, config, force=True)
    assert service.get("/healthz").json()["bundle"] != manifest.version
    cluster.serve(config)
    assert service.get("/healthz").json()["bundle"] == manifest.version
    assert len(recommend(service, "u5", k=3)) == 3
    assert {process.pid for process in address.processes() if "ServeReplica" in process.name()} == replicas


SWAPS = """
import sys
from rayrec.config import load
from rayrec.stages.pipeline import load_stage
from rayrec.serving.cluster import service, swaps
from rayrec.serving.rollout.history import swap_history
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace

config = load(None, sys.argv[1:])
first = service.current_rollout(config).version
second = run_stage(Workspace(config.workspace), load_stage("publish"), config, force=True)[0].version
swaps.swap(config, share=0.5)
swaps.swap(config)
swaps.rollback(config)
assert [(s.version, s.canary) for s in swap_history(Workspace(config.workspace))[-4:]] == [
    (first, None), (first, second), (second, None), (first, None)
]
"""


def test_canary_swap_and_rollback_drop_no_request(service: httpx.Client, config: Config) -> None:
    before = service.get("/healthz").json()["bundle"]
    answers: list[tuple[str, int, str, str]] = []
    music: list[tuple[int, str]] = []  # status, and bundle or error
    done = threading.Event()

    def ask() -> None:
        for number in itertools.count():
            user = f"visitor {number % 20}"
            answer = service.post("/v1/recommend", json={"user_id": user, "k": 1})
            body = answer.json()
            answers.append((user, answer.status_code, body.get("bundle"), body.get("arm")))
            answer = service.post("/v1/music", json={"user_id": user, "video_id": "v2", "k": 2})
            music.append((answer.status_code, answer.json().get("bundle") or answer.json()["error"]))
            if done.is_set():
                return

    asking = threading.Thread(target=ask)
    asking.start()
    arguments = [sys.executable, "-c", SWAPS, f"workspace={config.workspace}", f"serving.port={config.serving.port}"]
    swapped = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    done.set()
    asking.join()
    assert swapped.returncode == 0, swapped.stderr
    assert {status for _, status, _, _ in answers} == {200}
    assert len({bundle for _, _, bundle, _ in answers}) == 2
    seen = {(user, arm) for user, _, bundle, arm in answers if arm == "canary"}
    assert 0 < len(seen) < 20  # a share of the users, and the same ones all the time
    assert service.get("/healthz").json()["bundle"] == before
    # The bundle that was tried has no music: its config has no such section.
    assert {status for status, _ in music} == {200, 404}
    assert {said for status, said in music if status == 200} == {before}
    assert all("has no music" in said and before not in said for status, said in music if status == 404)
    assert music[-1] == (200, before)


def test_a_canary_that_people_like_less_goes_back_within_the_people_that_the_test_needs(
    service: httpx.Client, config: Config
) -> None:
    before = service.get("/healthz").json()["bundle"]
    version = publish(config)
    spoil(config, version, inverted)
    people, needed = People(service, config, before, seed=5), people_needed()
    trial = Trial(config, version)
    assert trial.began
    with people.load():
        arms = [is_canary(people.come(reader)) for reader in readers(version, needed)]
        reason = trial.reason()  # nobody new comes, and those who were there do nothing more
        assert not any(is_canary(people.come(reader)) for reader in people.seen[:10])
    assert reason.startswith(("the canary is worse: clicks per user -", "the canary is worse: watch seconds per user -"))
    assert service.get("/healthz").json()["bundle"] == before
    assert people.statuses == {200}
    assert 250 < needed < 400
    assert len(arms) == needed
    assert abs(sum(arms) - needed / 2) < 45  # five standard deviations: the version of the bundle draws the arms


def test_a_canary_that_fails_goes_back_and_its_users_get_pages_all_the_same(service: httpx.Client, config: Config) -> None:
    before = service.get("/healthz").json()["bundle"]
    version, lost = publish(config), [f"z lost {number}" for number in range(100)]
    lose(config, version, lost)
    people, failed = People(service, config, before, seed=6), 0
    trial = Trial(config, version)
    assert trial.began
    with people.load():
        for number, user in enumerate(lost):
            people.come(f"found {number}")  # of whom the canary's fail nothing
            answer = people.come(user)
            assert answer["bundle"] == before
            failed += is_canary(answer)
            if failed == users_that_prove(SHARE):
                break
        reason = trial.reason()
    assert reason.startswith(f"the canary fails more: pages could not be made for {failed} of its users, and for 0 of the others")
    assert service.get("/healthz").json()["bundle"] == before
    assert people.statuses == {200}


def test_the_status_shows_replicas_bundles_and_swaps(service: httpx.Client, config: Config) -> None:
    code = "import sys; from rayrec.cli import main; main(['serve', '--status', *sys.argv[1:]])"
    path = Path(config.workspace) / "config.yaml"
    path.write_text(yaml.safe_dump(dump(config)))
    told = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True
    )
    for words in (
        "service: running",
        "TopicRecall",
        "NeuralRanker",
        service.get("/healthz").json()["bundle"],
        "impressions",
        "done",
    ):
        assert words in told.stdout, told.stderr


@pytest.mark.parametrize("name", ["NeuralRanker", "TopicRecall"])
def test_a_replica_that_dies_is_replaced_and_nobody_hangs(service: httpx.Client, config: Config, name: str) -> None:
    address = connection.running(config)
    assert address is not None
    (replica,) = (process for process in address.processes() if "ServeReplica" in process.name() and name in process.name())
    replica.kill()
    answers = []
    for number in range(200):
        started = time.monotonic()
        answer = service.post("/v1/recommend", json={"user_id": f"mourner {number}", "k": 1})
        assert time.monotonic() - started < 2 * config.serving.timeout_s
        assert answer.status_code in (200, 503), answer.text
        answers.append(answer.status_code)
        if answers[-20:] == [200] * 20:
            break
        time.sleep(0.3)
    assert answers[-20:] == [200] * 20


def test_a_broken_bundle_is_refused_and_the_old_one_goes_on(service: httpx.Client, config: Config) -> None:
    workspace = Workspace(config.workspace)
    before = service.get("/healthz").json()["bundle"]
    run_stage(workspace, PUBLISH, config, force=True)
    (Path(locate(workspace, None)[1]) / "items.arrow").write_bytes(b"broken")
    with pytest.raises(BundleError, match=r"items\.arrow is not the file that was published"):
        cluster.serve(config)
    assert service.get("/readyz").json() == {"bundle": before}
    workspace.switch("publish", before)


def test_what_stands_in_the_way_is_named(
    service: httpx.Client, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    moved = config.model_copy(update={"serving": config.serving.model_copy(update={"port": processes.free_ports(1)[0]})})
    with pytest.raises(ClusterError, match=f"runs at 127.0.0.1:{config.serving.port} already; run `rayrec stop CONFIG`"):
        cluster.serve(moved)
    with pytest.raises(ConfigError, match="set RAYREC_API_KEYS"):
        cluster.serve(config.model_copy(update={"serving": config.serving.model_copy(update={"host": "0.0.0.0"})}))
    with pytest.raises(WorkspaceError, match="rayrec publish"):
        cluster.serve(moved.model_copy(update={"workspace": str(tmp_path)}))
    monkeypatch.setenv("RAYREC_API_KEYS", "key")
    with pytest.raises(ClusterError, match="RAYREC_API_KEYS has changed since"):
        cluster.serve(config)


def test_a_service_that_can_not_start_says_why_and_the_old_one_goes_on(
    service: httpx.Client, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = connection.running(config)
    assert address is not None
    application = cluster._application(config, "x", address.ingress)
    application["applications"][0]["args"] = {"config": {"serving": {"prot": 1}}}
    monkeypatch.setattr("rayrec.serving.cluster.service._application", lambda config, version, ingress: application)
    with pytest.raises(ClusterError, match=r"unknown key 'serving.prot'; did you mean 'serving.port'\?"):
        cluster.serve(config)
    monkeypatch.undo()
    assert len(recommend(service, "u6", k=3)) == 3
    cluster.serve(config)
    failed = {"message": "Failed.", "deployments": {"a": {"message": ""}, "b": {"message": "Tries: 3\n  in x\nOSError: no disk\n"}}}
    assert cluster._reason(failed) == "OSError: no disk"


def test_other_commands_join_the_head(service: httpx.Client, config: Config) -> None:
    code = (
        "import ray, sys; from rayrec.config import load; from rayrec.serving.cluster import connection\n"
        "connection.connect(load(None, sys.argv[1:])); print(ray.get_runtime_context().gcs_address)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    command = [sys.executable, "-c", code, f"workspace={config.workspace}"]
    joined = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    address = connection.running(config)
    assert address is not None
    assert joined.stdout.split()[-1:] == [address.gcs], joined.stderr


def test_a_bundle_without_a_ranker_is_served_and_followed_by_one_with(service: httpx.Client, config: Config) -> None:
    version = publish_without_log(config, 80)  # the tests above have shown, and hardly clicked, what the others have in common
    cluster.serve(config)
    assert service.get("/readyz").json() == {"bundle": version}
    assert not service.get("/v1/dashboard").json()["ranker"]
    videos = recommend(service, "early", k=5)
    assert {video["why"] for video in videos} <= {"new", "popular"}
    assert [video["score"] for video in videos] == pytest.approx([1, 0.9875, 0.975, 0.9625, 0.95])  # in the order of recall
    event = {"event_id": "early", "user_id": "early", "video_id": videos[0]["video_id"], "kind": "click"}
    assert service.post("/v1/events", json={"events": [event]}).json()["new"] == 1
    assert "topic" in {video["why"].split(":")[0] for video in recommend(service, "early")}
    version = publish_catalog_of(config, 80)
    cluster.serve(config)
    assert service.get("/readyz").json() == {"bundle": version}
    assert service.get("/v1/dashboard").json()["ranker"]
    videos = recommend(service, "later", k=10)
    assert all(0 < video["score"] < 1 for video in videos)
    assert videos[0]["score"] - videos[1]["score"] != pytest.approx(0.025, abs=1e-6)
    assert service.get("/v1/users/early").json()["clicks"] == 1  # what was learned meanwhile is not lost


def test_a_ranker_with_several_goals_is_served_and_says_what_it_predicts(service: httpx.Client, config: Config) -> None:
    goals = {"click": "clicked", "odds": {"label": "clicked", "loss": "weighted_logistic"}}
    ranker = Ranker.model_validate(config.ranker.model_dump() | {"goals": goals})
    config, workspace = config.model_copy(update={"ranker": ranker}), Workspace(config.workspace)
    for stage in (TRAIN, PUBLISH):
        run_stage(workspace, stage, config)
    cluster.serve(config)
    scorer = Scorer.load(workspace.fs, f"{workspace.folder('train')}/{RANKER}")
    for formula, powers in ((None, (1, 0)), ("click * odds^0.5", (1, 0.5))):
        answer = service.post("/v1/recommend", json={"user_id": "goals", "score": formula, "debug": True}).json()
        assert answer["debug"]["formula"] == (formula or "click")
        items = scorer.items.rows_of(pa.array([video["video_id"] for video in answer["videos"]]))
        past = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        offline = scorer.score(["goals"], *past, np.array([0]), items[None].astype(np.int32))[0]
        served = np.array([list(video["goals"].values()) for video in answer["videos"]])
        np.testing.assert_allclose(served, offline, atol=1e-5)
        scores = [video["score"] for video in answer["videos"]]
        np.testing.assert_allclose(scores, (served**powers).prod(1), atol=1e-5)
        assert scores == sorted(scores, reverse=True)


def test_stop_ends_all_of_it_and_nothing_else(service: httpx.Client, config: Config) -> None:
    address = connection.running(config)
    assert address is not None
    ours, others = address.processes(), subprocess.Popen(["sleep", "60"])
    started = time.monotonic()
    assert connection.stop(config)
    assert time.monotonic() - started < 10
    assert not [process for process in ours if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert address.processes() == []
    assert others.poll() is None
    others.kill()
    others.wait()
    assert not Path(address.folder).exists()
    assert connection.running(config) is None
    assert not connection.stop(config)
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", config.serving.port))


def test_a_head_that_was_killed_is_not_taken_for_a_running_one(config: Config) -> None:
    record = connection._record(config)
    folder = Path(shutil.copytree(Path(config.workspace) / "state", record.parent / "folder"))
    here = {"record": str(record), "workspace": config.workspace, "host": socket.gethostname(), "started": 1.0}
    there = {"gcs": f"127.0.0.1:{processes.free_ports(1)[0]}", "dashboard": "", "folder": str(folder), "ingress": "127.77.0.1"}
    Address(**here, **there, session=os.getsid(0), keys="").write(record)
    assert connection.running(config) is None
    assert not connection.stop(config)  # this very session has that number, but nothing in it is ours
    assert not folder.exists()
