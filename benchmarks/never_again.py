"""Whether anybody is ever shown a video again, or a short page, and what the memory of what was seen costs.

    python benchmarks/never_again.py --impressions 1000000
    python benchmarks/never_again.py --impressions 1000000 --redis redis://127.0.0.1:6379/9     (an empty database; left full)

People of different diligence ask for pages of 20 from a catalog of 20,000 videos (`serving.views: reported`); of each page they see
some, skip or click some of these, and never come to the rest. The clock runs through 60 days, two replicas share one store, one of
them is restarted now and then, and the other changes to a bundle with the catalog in another order. Beside them, a plain set for
each user says what that user has seen. Pages are made by the recommender itself, without HTTP and with a ranker that draws scores.
"""

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from figures import peak_gib, show

from rayrec.config import Config, Selection, load
from rayrec.serving import recommender as recommender_module
from rayrec.serving.bundle import ITEMS, TOPICS, Bundle, BundleInfo
from rayrec.serving.pages import AGAIN
from rayrec.serving.recommender import Recommender, UserState
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.store import DAY, Event, Since, StateStore
from rayrec.serving.user_log import USERS, UserLogs

VIDEOS, TOPIC_COUNT, PEOPLE, PAGE, DAYS = 20_000, 100, 400, 20, 60
START = 20_000 * DAY
CHANGE_EVERY = 1000  # pages between two restarts, and between two changes of the bundle


def bundle_in(order: np.ndarray) -> Bundle:
    """A bundle without a log, whose videos are in this order."""
    rng = np.random.default_rng(0)
    topics = rng.integers(0, TOPIC_COUNT, VIDEOS)
    columns: dict[str, Any] = {
        "video_id": [f"video-{n:06}" for n in range(VIDEOS)],
        "topics": [[topic] for topic in topics.tolist()],
        "similarity": [[0.9]] * VIDEOS,
        "exposures": np.full(VIDEOS, 100),
        "clicks": rng.integers(0, 40, VIDEOS),
    }
    arrays = [pa.array(columns[each.name], each.type) if each.name in columns else pa.nulls(VIDEOS, each.type) for each in ITEMS]
    items = pa.Table.from_arrays(arrays, schema=ITEMS).take(order).combine_chunks()
    videos = [VIDEOS // TOPIC_COUNT] * TOPIC_COUNT
    words = pa.table({"topic": range(TOPIC_COUNT), "words": [["word"]] * TOPIC_COUNT, "videos": videos})
    info = BundleInfo(log_until=0, max_clicks=50, has_ranker=False)
    return Bundle("made", info, pafs.LocalFileSystem(), "", items, words.cast(TOPICS), UserLogs(USERS.empty_table()))


async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
    return np.random.default_rng(at).random(len(candidates), np.float32)


class Simulation:
    """Pages for people, and what a set for each of them says of these pages."""

    def __init__(self, config: Config) -> None:
        self.config, self.rng = config, random.Random(0)
        self.bundles = [bundle_in(np.random.default_rng(n).permutation(VIDEOS)) for n in range(3)]
        self.replicas = [self.recommender(open_store(config), self.bundles[0]) for _ in range(2)]
        self.seen: dict[str, set[str]] = {f"person-{n:04}": set() for n in range(PEOPLE)}
        self.weights = [1 / (n + 40) for n in range(PEOPLE)]  # nobody comes to see all videos
        self.impressions = self.views = self.repeats = self.short = 0

    def recommender(self, store: StateStore, bundle: Bundle) -> Recommender:
        return Recommender(bundle, store, rank, self.config.recall, Selection(), seed=0)

    async def page(self, number: int) -> None:
        if number % CHANGE_EVERY == 500:
            self.replicas[0].store.close()
            self.replicas[0] = self.recommender(open_store(self.config), self.bundles[0])
        elif number % CHANGE_EVERY == 0:
            self.replicas[1] = self.recommender(self.replicas[1].store, self.rng.choice(self.bundles))
        (user,) = self.rng.choices(list(self.seen), self.weights)
        replica, known = self.replicas[number % 2], self.seen[user]
        page = await replica.recommend(user, PAGE, [])
        ids = replica.items.ids(page.items)
        self.impressions += len(ids)
        self.short += len(ids) < PAGE
        self.repeats += sum(each in known for each in ids) + (AGAIN in page.why) + len(ids) - len(set(ids))
        looked = ids[: self.rng.randrange(len(ids) // 2, len(ids) + 1)]  # and then they leave
        known.update(looked)
        self.views += len(looked)
        await replica.add_events([self.event(user, each, page.request_id, page.at) for each in looked])

    def event(self, user: str, video_id: str, request_id: str, at: int) -> Event:
        kind = self.rng.choices(["view", "skip", "click"], [7, 2, 1])[0]
        return Event(f"{request_id}-{video_id}", user, video_id, kind, at + 900, request_id)  # type: ignore[arg-type]


async def main(impressions: int, redis: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = redis or str(Path(folder) / "events.db")
        config = load(None, [f"serving.state={state}", "serving.views=reported"])
        recommender_module.WRITE_WAIT_S = 600.0  # other work may take the machine
        simulation, started = Simulation(config), time.process_time()
        pages = impressions // PAGE
        for number in range(pages):
            now = START + number * DAYS * DAY // pages
            recommender_module.now_ms = lambda now=now: now  # type: ignore[misc]
            await simulation.page(number)
        spent = time.process_time() - started
        store = simulation.replicas[0].store
        kept = {user: len(store.activity(user, Since(), 0, 0, 0).seen) for user in simulation.seen}
        most = max(simulation.seen, key=lambda user: len(simulation.seen[user]))
        figures: dict[str, Any] = {
            "impressions": simulation.impressions,
            "views": simulation.views,
            "repeats": simulation.repeats,
            "short pages": simulation.short,
            "videos seen by the most diligent": len(simulation.seen[most]),
            "bytes kept for a view": sum(kept.values()) / sum(len(own) for own in simulation.seen.values()),
            "CPU ms for a page, its events and its bookkeeping": 1000 * spent / pages,
            "peak GiB": peak_gib(),
        }
        show(
            "never again",
            [{"figure": name, "value": value} for name, value in figures.items()],
            store="redis" if redis else "sqlite",
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=1_000_000)
    parser.add_argument("--redis")
    asyncio.run(main(**vars(parser.parse_args())))
