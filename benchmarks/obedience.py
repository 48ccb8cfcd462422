"""How fast, and how far, a feed obeys: the share of a topic and of an author on the page after one event, and how long that takes.

    rayrec run configs/demo.yaml --no-serve
    python benchmarks/obedience.py [CONFIG] [--users N] [--k K]
    python benchmarks/obedience.py [CONFIG] [--users N] [--k K] --browsing PAGES [--seeds SEED ...] [--also "KEY=VALUE ..."] ...

The published bundle and its ranker answer over HTTP, in one process without Ray, from a SQLite file on disk. Each user asks for a
page, sends one event about its first video, waits for the acknowledgement and asks for the next page. Users and first pages are the
same for all kinds of events; `nothing` sends none, and shows what the next page would have been. The shares are those of the
video's nearest topic and of its author.

With `--browsing`, people of a synthetic world look at so many pages instead, five in each visit and a visit a day: they click with
their true probabilities, like a third of what they click, skip half of the rest, and say of one in twenty of it that it is not for
them. It shows the mean true click probability of the pages without `recall.feedback`, with it, and with each `--also`, which are
overrides of the config. In all of these, the same people have the same luck. A seed draws the luck, and the people out of more.
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
from rayrec.serving import recommender as recommender_module
from rayrec.serving.bundle import Bundle, load_scorer, locate
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.pages import Page
from rayrec.serving.recommender import Rank, Recommender, UserState
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.serving.state.store import DAY, MINUTE, Event
from rayrec.workspace.versions import Workspace

NOTHING = "nothing"
PAGES_A_VISIT = 5
KINDS = ("less_topic", "less_author", "block_author", "not_interested", "skip", "like")
# What is said, and how many days ago. The last ones show how the effects fade: by half in 30 days and, of a like, in 7.
SAID = [(NOTHING, 0), *((kind, 0) for kind in KINDS), ("less_topic", 30), ("less_topic", 80), ("like", 7), ("like", 28)]


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


def measured(client: httpx.Client, users: list[str], kind: str, days: int, k: int) -> list[dict[str, float]]:
    """The shares before and after an event of so many days ago, and milliseconds, of each user."""
    found = []
    for user in users:
        first = asked(client, user, k)[0]
        told = next(video for video in first if video["author_id"] and video["topics"])
        if kind != NOTHING:
            at = time.time_ns() // 1_000_000 - days * DAY
            event = {"event_id": kind, "user_id": user, "video_id": told["video_id"], "kind": kind, "at": at}
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


class Browsing:
    """People of a synthetic world who look at pages. `truth` has the click probability of each of them [people, items]."""

    def __init__(self, bundle: Bundle, rank: Rank, workspace: Workspace) -> None:
        self.bundle, self.rank = bundle, rank
        columns = workspace.read("truth_preferences").to_pydict()
        self.people = sorted(set(columns["user_id"]))
        self.truth = np.full((len(self.people), len(bundle.item_ids)), np.nan)
        row_of, item_of = ({each: number for number, each in enumerate(ids)} for ids in (self.people, bundle.item_ids))
        rows, items = [row_of[each] for each in columns["user_id"]], [item_of[each] for each in columns["video_id"]]
        self.truth[rows, items] = columns["click_probability"]

    async def pages(self, config: Config, seed: int, users: int, pages: int, k: int) -> np.ndarray:
        """The mean true click probability of each page of each person, [people, pages]; NaN for those who are not drawn."""
        found = np.full((len(self.people), pages), np.nan)
        recommender_module.now_ms = lambda: self.bundle.info.log_until  # type: ignore[misc]
        with tempfile.TemporaryDirectory() as folder:
            store = SqliteStore(Path(folder) / "events.db")
            recommender = Recommender(self.bundle, store, self.rank, config.recall, config.selection, seed)
            for person in np.random.default_rng([seed, 0]).permutation(len(self.people))[:users].tolist():
                fate = np.random.default_rng([seed, 1, person]).random((2, len(self.bundle.item_ids)))
                for number in range(pages):
                    now = self.bundle.info.log_until + number // PAGES_A_VISIT * DAY + number % PAGES_A_VISIT * MINUTE
                    recommender_module.now_ms = lambda now=now: now  # type: ignore[misc]
                    page = await recommender.recommend(self.people[person], k, [])
                    found[person, number] = self.truth[person, page.items].mean()
                    store.add_events(self.events(person, page, recommender.items.ids(page.items), fate))
            store.close()
        return found

    def events(self, person: int, page: Page, ids: list[str], fate: np.ndarray) -> list[Event]:
        """What a person does with a page of these videos. `fate` [2, items] is uniform."""
        events = []
        for item, video_id in zip(page.items.tolist(), ids, strict=True):
            first, second = fate[:, item]
            if first < self.truth[person, item]:
                kinds = ["click", *(["like"] if second < 1 / 3 else [])]
            else:
                kinds = ["skip"] if second < 1 / 2 else ["not_interested"] if second < 1 / 2 + 1 / 20 else []
            user, at = self.people[person], page.at + 1000
            events += [Event(f"{kind} {video_id}", user, video_id, kind, at) for kind in kinds]  # type: ignore[arg-type]
        return events


def compare_browsing(browsing: Browsing, arms: dict[str, Config], seeds: list[int], users: int, pages: int, k: int) -> None:
    """Prints the true click probabilities of the pages of each arm, and by how much they are above those of the first one."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in arms}
    for seed in seeds:
        for name, config in arms.items():
            found[name].append(asyncio.run(browsing.pages(config, seed, users, pages, k)))
    base, rows = np.stack(next(iter(found.values()))), []
    for name, its in found.items():
        means = np.stack(its)
        gains = (means - base)[:, :, 1:].mean(axis=2)  # [seeds, people]
        gain, drawn = np.nanmean(gains), ~np.isnan(gains)
        apart = np.nansum(gains - gain, axis=0)[drawn.any(axis=0)]  # a person whom several seeds draw counts as one
        error = (np.square(apart).sum() * len(apart) / (len(apart) - 1)) ** 0.5 / drawn.sum()
        rows.append(
            {"pages": name, "first page": float(np.nanmean(means[:, :, 0])), "later pages": float(np.nanmean(means[:, :, 1:]))}
            | {"gain": float(gain), "standard error": float(error)}
            | {f"seed {seed}": float(np.nanmean(of_seed)) for seed, of_seed in zip(seeds, gains, strict=True)}
        )
    show("browsing", rows, users=min(users, base.shape[1]), pages=pages, k=k)


def asked(client: httpx.Client, user: str, k: int) -> tuple[list[dict[str, Any]], float]:
    begun = time.perf_counter()
    answer = client.post("/v1/recommend", json={"user_id": user, "k": k}).raise_for_status()
    return answer.json()["videos"], 1000 * (time.perf_counter() - begun)


def share(hits: list[bool]) -> float:
    return sum(hits) / max(len(hits), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--users", type=int, default=200, help="those with the most clicks in the log, or people of the world")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--browsing", type=int, metavar="PAGES", help="how many pages people of the world look at")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--also", action="append", default=[], metavar="OVERRIDES", help="one more kind of pages to browse")
    asked_for = parser.parse_args()
    config = load(asked_for.config, [])
    workspace = Workspace(config.workspace)
    version, folder = locate(workspace, None)
    bundle, scorer = Bundle.load(workspace.fs, folder, version), load_scorer(workspace.fs, folder)
    rank = rank_with(scorer)
    if not asked_for.browsing:
        obeying(bundle, rank, config, asked_for.users, asked_for.k)
        return
    named = {"recall.feedback=null": "recall.feedback=null", "recall.feedback": ""} | {each: each for each in asked_for.also}
    arms = {name: load(asked_for.config, overrides.split()) for name, overrides in named.items()}
    compare_browsing(Browsing(bundle, rank, workspace), arms, asked_for.seeds, asked_for.users, asked_for.browsing, asked_for.k)


def obeying(bundle: Bundle, rank: Rank, config: Config, count: int, k: int) -> None:
    """Prints what one event of each kind does to the next pages of the users with the most clicks."""
    users = bundle.users.with_most_clicks(count)
    asyncio.run(rank(users[0], UserState(*[np.empty(0, np.int64)] * 3), 0, np.arange(1, 100, dtype=np.int32), {}))  # warms up
    rows, usual = [], {"topic": 0.0, "author": 0.0}
    for kind, days in SAID:
        with served(bundle, rank, config) as client:
            found = measured(client, users, kind, days, k)
        mean = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
        usual = usual if kind != NOTHING else {name: mean[f"{name} after"] for name in usual}
        rows.append(
            {"event": f"{kind}, {days} days ago" if days else kind}
            | {f"{name} {when}": mean[f"{name} {when}"] for name in usual for when in ("before", "after")}
            | {f"{name}, change": mean[f"{name} after"] / usual[name] - 1 for name in usual}
            | {
                f"{name} p{q}": float(np.percentile([row[name] for row in found], q))
                for name in ("stored_ms", "page_ms")
                for q in (50, 99)
            }
            | {"short pages": int(sum(row["short"] for row in found))}
        )
    show("obedience", rows, users=len(users), k=k, videos=bundle.items.num_rows, topics=bundle.topics.num_rows)


if __name__ == "__main__":
    main()
