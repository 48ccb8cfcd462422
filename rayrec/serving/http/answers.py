"""What the answers of the API say of videos and of pages, from a bundle's tables."""

import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import url2pathname
from weakref import WeakKeyDictionary

import numpy as np
from pydantic_core import to_json

from rayrec.recall.source import NO_TOPIC
from rayrec.serving.http.schemas import SimilarVideo, Video
from rayrec.serving.recommender import Page, Recommender

MAX_CARDS = 20_000  # kept for each recommender, some 2 KB each
Card = dict[str, Any]
_cards: WeakKeyDictionary[Recommender, dict[int, Card]] = WeakKeyDictionary()


def video(recommender: Recommender, item: int) -> Video:
    return Video(**_cards_of(recommender, [item])[0])


def page(recommender: Recommender, found: Page, arm: str, debug: bool) -> bytes:
    """A `RecommendAnswer` as JSON."""
    words, cards = recommender.bundle.words, _cards_of(recommender, found.items.tolist())
    times = [{"step": step.name, "milliseconds": round(step.milliseconds, 3), "count": step.count} for step in found.trace.steps]
    answer = {
        "request_id": found.request_id,
        "arm": arm,
        "bundle": recommender.bundle.version,
        "videos": [
            card | {"score": round(score, 6), **_reason(why, topic, words)}
            for card, score, why, topic in zip(cards, found.scores.tolist(), found.why.tolist(), found.topics.tolist(), strict=True)
        ],
        "debug": {"steps": times} if debug else None,
    }
    return to_json(answer)


def similar(recommender: Recommender, items: np.ndarray, similarity: np.ndarray) -> list[SimilarVideo]:
    cards = _cards_of(recommender, items.tolist())
    return [SimilarVideo(**card, likeness=round(float(alike), 4)) for card, alike in zip(cards, similarity, strict=True)]


def place_of(uri: str | None) -> Path | str | None:
    """Where a catalog's medium is: a path of this machine or a web address; None for what is elsewhere or no medium."""
    if uri is None or uri.startswith(("http://", "https://")):
        return uri
    if not (mimetypes.guess_type(uri)[0] or "").startswith(("video/", "audio/", "image/")):
        return None
    if uri.startswith("file://"):
        return Path(url2pathname(uri.removeprefix("file://")))
    return Path(uri) if uri.startswith("/") else None


def cover_path(facts: dict[str, Any]) -> str | None:
    return f"{_path(facts)}/cover" if facts["has_cover"] else None


def _path(facts: dict[str, Any]) -> str:
    return f"/v1/videos/{quote(facts['video_id'], safe='')}"


def _cards_of(recommender: Recommender, items: Sequence[int]) -> list[Card]:
    """The fields of each item's `Video`. They are kept: making those of a page takes half a millisecond. Event loop only."""
    kept = _cards.setdefault(recommender, {})
    if not all(item in kept for item in items):
        if len(kept) + len(items) > MAX_CARDS:
            kept.clear()
        facts = recommender.bundle.facts_of(np.array(items))
        kept.update({item: _card(fact, recommender.bundle.words) for item, fact in zip(items, facts, strict=True)})
    return [kept[item] for item in items]


def _reason(why: str, topic: int, words: dict[int, list[str]]) -> Card:
    """Why a video is in the page."""
    if topic == NO_TOPIC:
        return {"why": why, "topic": None}
    return {"why": "topic: " + (", ".join(words.get(topic, [])) or str(topic)), "topic": topic}


def _card(facts: dict[str, Any], words: dict[int, list[str]]) -> Card:
    """The fields of a `Video` from a row of the bundle's items."""
    topics = zip(facts["topics"] or [], facts["similarity"] or [], strict=True)
    plain = ("video_id", "title", "author_id", "primary_class", "secondary_class", "published_at", "duration_s")
    return {
        **{name: facts[name] for name in plain},
        "tags": facts["tags"] or [],
        "topics": [{"topic": topic, "words": words.get(topic, []), "similarity": round(alike, 4)} for topic, alike in topics],
        "cover": cover_path(facts),
        "file": f"{_path(facts)}/file" if place_of(facts["uri"]) else None,
    }
