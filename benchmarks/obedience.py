"""How fast, and how far, a feed obeys: the share of a topic and of an author on the page after one event, and how long that takes.

    rayrec run configs/demo.yaml --no-serve
    python benchmarks/obedience.py [CONFIG] [--users N] [--k K] [--browsing PAGES]

The published bundle and its ranker answer over HTTP, in one process without Ray, from a SQLite file on disk. Each user asks for a
page, sends one event about its first video, waits for the acknowledgement and asks for the next page. Users and first pages are the
same for all kinds of events; `nothing` sends none, and shows what the next page would have been. The shares are those of the
video's nearest topic and of its author.

With `--browsing`, people of a synthetic world look at so many pages instead: they click with their true probabilities, like a third
of what they click and skip half of the rest. It shows the mean true click probability of the pages with and without
`recall.feedback`, for the same people with the same luck.
"""

import argparse
import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from figures import show

from rayrec.config import Config, load
from rayrec.ranking.scorer import Scorer
from rayrec.serving.bundle import Bundle, load_scorer, locate
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import Rank, Recommender, UserState
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.serving.state.store import Event
from rayrec.workspace.versions import Workspace

NOTHING = "nothing"
KINDS = (NOTHING, "less_topic", "less_author", "block_author", "not_interested", "skip", "like")


def rank_with(scorer: Scorer) -> Rank:
    async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        history = [user.clicked], [user.clicked_at]
        return scorer.score([user_id], *history, np.array([at]), candidates[None], [context])[0]

    return rank


@contextmanager
def served(bundle: Bundle, rank: Rank, config: Config) -> Iterator[httpx.Client]:
    """A client of the service over an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "events.db")
        recommender = Recommender(bundle, store, rank, config.recall, config.selection, config.seed)
        api = create_api(lambda: Arms(recommender), config.serving, Keys(), LocalMetrics(), list)
        server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="critical", ws="none"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()
            store.close()


def measured(client: httpx.Client, users: list[str], kind: str, k: int) -> list[dict[str, float]]:
    """The shares before and after the event, and milliseconds, of each user."""
    found = []
    for user in users:
        first = asked(client, user, k)[0]
        told = next(video for video in first if video["author_id"] and video["topics"])
        if kind != NOTHING:
            event = {"event_id": kind, "user_id": user, "video_id": told["video_id"], "kind": kind}
            begun = time.perf_counter()
            client.post("/v1/events", json={"events": [event]}).raise_for_status()
            stored_ms = 1000 * (time.perf_counter() - begun)
        else:
            stored_ms = 0.0
        second, page_ms = asked(client, user, k)
        topic = told["topics"][0]["topic"]
        row = {"stored_ms": stored_ms, "page_ms": page_ms, "short": float(len(second) < k)}
        for name, page in (("before", first), ("after", second)):
            row |= {f"topic {name}": share([any(each["topic"] == topic for each in video["topics"]) for video in page])}
            row |= {f"author {name}": share([video["author_id"] == told["author_id"] for video in page])}
        found.append(row)
    return found


def browsed(
    bundle: Bundle, rank: Rank, config: Config, truth: dict[tuple[str, str], float], users: list[str], pages: int, k: int
) -> list[list[float]]:
    """The mean true click probability of each page of each user, who like and skip what they see."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "events.db")
        recommender = Recommender(bundle, store, rank, config.recall, config.selection, config.seed)
        for number, user in enumerate(users):
            luck = np.random.default_rng([config.seed, number]).random((2, len(bundle.item_ids)))
            means = []
            for _ in range(pages):
                page = asyncio.run(recommender.recommend(user, k, []))
                ids = recommender.items.ids(page.items)
                chances = [truth[user, video_id] for video_id in ids]
                means.append(float(np.mean(chances)))
                for video_id, chance, (first, second) in zip(ids, chances, luck[:, page.items].T, strict=True):
                    clicked = bool(first < chance)
                    kinds = ["click"] * clicked + (["like"] * int(second < 1 / 3) if clicked else ["skip"] * int(second < 1 / 2))
                    at = page.at + 1
                    store.add_events([Event(f"{kind} {video_id}", user, video_id, kind, at) for kind in kinds])  # type: ignore[arg-type]
            found.append(means)
        store.close()
    return found


def compare_browsing(bundle: Bundle, rank: Rank, config: Config, workspace: Workspace, users: int, pages: int, k: int) -> None:
    """Prints the true click probabilities of pages with feedback and without."""
    columns = workspace.read("truth_preferences").to_pydict()
    truth = dict(zip(zip(columns["user_id"], columns["video_id"], strict=True), columns["click_probability"], strict=True))
    people = sorted(set(columns["user_id"]))[:users]
    without = config.model_copy(update={"recall": config.recall.model_copy(update={"feedback": None})})
    arms = {"recall.feedback: null": without, "recall.feedback": config}
    means = {name: np.array(browsed(bundle, rank, its, truth, people, pages, k)) for name, its in arms.items()}
    gains = (means["recall.feedback"] - means["recall.feedback: null"])[:, 1:].mean(axis=1)
    rows = [
        {"pages": name, "true CTR, first page": float(found[:, 0].mean()), "true CTR, later pages": float(found[:, 1:].mean())}
        for name, found in means.items()
    ]
    error = float(gains.std(ddof=1) / len(gains) ** 0.5)
    show("browsing", rows, users=len(people), pages=pages, k=k, gain=round(float(gains.mean()), 5), standard_error=round(error, 5))


def asked(client: httpx.Client, user: str, k: int) -> tuple[list[dict[str, Any]], float]:
    begun = time.perf_counter()
    answer = client.post("/v1/recommend", json={"user_id": user, "k": k}).raise_for_status()
    return answer.json()["videos"], 1000 * (time.perf_counter() - begun)


def share(hits: list[bool]) -> float:
    return sum(hits) / max(len(hits), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--users", type=int, default=200, help="those with the most clicks in the log")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--browsing", type=int, metavar="PAGES", help="how many pages people of the world look at")
    asked_for = parser.parse_args()
    config = load(asked_for.config, [])
    workspace = Workspace(config.workspace)
    version, folder = locate(workspace, None)
    bundle, scorer = Bundle.load(workspace.fs, folder, version), load_scorer(workspace.fs, folder)
    if asked_for.browsing:
        compare_browsing(bundle, rank_with(scorer), config, workspace, asked_for.users, asked_for.browsing, asked_for.k)
        return
    users, rank = bundle.users.with_most_clicks(asked_for.users), rank_with(scorer)
    asyncio.run(rank(users[0], UserState(*[np.empty(0, np.int64)] * 3), 0, np.arange(1, 100, dtype=np.int32), {}))  # warms up
    rows, usual = [], {"topic": 0.0, "author": 0.0}
    for kind in KINDS:
        with served(bundle, rank, config) as client:
            found = measured(client, users, kind, asked_for.k)
        mean = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
        usual = usual if kind != NOTHING else {name: mean[f"{name} after"] for name in usual}
        rows.append(
            {"event": kind}
            | {f"{name} {when}": mean[f"{name} {when}"] for name in usual for when in ("before", "after")}
            | {f"{name}, change": mean[f"{name} after"] / usual[name] - 1 for name in usual}
            | {
                f"{name} p{q}": float(np.percentile([row[name] for row in found], q))
                for name in ("stored_ms", "page_ms")
                for q in (50, 99)
            }
            | {"short pages": int(sum(row["short"] for row in found))}
        )
    show("obedience", rows, users=len(users), k=asked_for.k, videos=bundle.items.num_rows, topics=bundle.topics.num_rows)


if __name__ == "__main__":
    main()
