"""What the answers of the API contain about videos and pages, made from a bundle's tables."""

import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import url2pathname
from weakref import WeakKeyDictionary

import numpy as np
from pydantic_core import to_json

from rayrec.config import Effect
from rayrec.recall.feedback import DAY_MS, Said
from rayrec.recall.source import NO_TOPIC
from rayrec.serving.attention import Attention
from rayrec.serving.http.feedback_schemas import GivenFeedback
from rayrec.serving.http.music_schemas import Track
from rayrec.serving.http.schemas import AttentionAnswer, FoundVideo, SimilarVideo, StageAttention, Video
from rayrec.serving.music import Best, Music
from rayrec.serving.pages import Page
from rayrec.serving.recommender import Recommender
from rayrec.workspace.stores import split_uri

MAX_CACHED = 20_000  # videos for each recommender, some 2 KB each
MAX_FEEDBACK = 100  # of a user, in an answer
WEB = ("http://", "https://")
Fields = dict[str, Any]
_cache: WeakKeyDictionary[Recommender, dict[int, Fields]] = WeakKeyDictionary()


def video(recommender: Recommender, item: int) -> Video:
    return Video(**_video_fields(recommender, [item])[0])


def page(recommender: Recommender, found: Page, arm: str, experiments: Mapping[str, str], debug: bool, trusted: bool) -> bytes:
    """Returns a `RecommendAnswer` as JSON. What was predicted of each goal is for `trusted` callers alone."""
    words, videos = recommender.bundle.words, _video_fields(recommender, found.items.tolist())
    steps = [{"step": step.name, "milliseconds": round(step.milliseconds, 3), "count": step.count} for step in found.trace.steps]
    if found.feedback is not None:
        reasons = found.feedback.reasons(found.items)
        moved = [
            {"feedback": {"kind": each.kind, "scope": each.scope, "factor": round(each.factor, 4)}} if each else {}
            for each in reasons
        ]
        videos = [fields | more for fields, more in zip(videos, moved, strict=True)]
    used = _used(found)
    if debug and trusted and found.goals is not None:
        names, rows = recommender.bundle.info.goals, np.round(found.goals.astype(float), 6).tolist()
        videos = [fields | {"goals": dict(zip(names, row, strict=True))} for fields, row in zip(videos, rows, strict=True)]
        used["formula"] = names[0] if found.formula is None else str(found.formula)
    answer = {
        "request_id": found.request_id,
        "arm": arm,
        "experiments": experiments,
        "bundle": recommender.bundle.version,
        "videos": [
            fields | {"score": round(score, 6), **_reason(why, topic, words)}
            for fields, score, why, topic in zip(
                videos, found.scores.tolist(), found.why.tolist(), found.topics.tolist(), strict=True
            )
        ],
        "logged": found.logged,
        "debug": {"steps": steps, "propensities": found.propensities(), **used} if debug else None,
    }
    return to_json(answer)


def _used(found: Page) -> Fields:
    """What the user's feedback did to the candidates."""
    if found.moved is None:
        return {}
    return {"feedback": {"raised": int((found.moved > 0).sum()), "lowered": int((found.moved < 0).sum())}}


def feedback(recommender: Recommender, said: Sequence[Said], now: int) -> list[GivenFeedback]:
    """What a user said of videos, the newest first."""
    said = said[: -MAX_FEEDBACK - 1 : -1]
    effects, given = recommender.settings.feedback, []
    for each, fields in zip(said, _video_fields(recommender, [each.item for each in said]), strict=True):
        topic: Fields = next(iter(fields["topics"]), {"topic": None, "words": []})
        effect: Effect | None = getattr(effects, each.kind, None)
        left = 1.0 if effect is None else 0.5 ** (max(0, now - each.at) / DAY_MS / effect.half_life_days)
        given.append(
            GivenFeedback(
                kind=each.kind,
                at=each.at,
                left=round(left, 4),
                topic=topic["topic"],
                words=topic["words"],
                **{name: fields[name] for name in ("video_id", "title", "author_id")},
            )
        )
    return given


def similar(recommender: Recommender, items: np.ndarray, similarity: np.ndarray) -> list[SimilarVideo]:
    videos = _video_fields(recommender, items.tolist())
    return [SimilarVideo(**fields, likeness=round(float(likeness), 4)) for fields, likeness in zip(videos, similarity, strict=True)]


def found(recommender: Recommender, items: Sequence[tuple[int, float]]) -> list[FoundVideo]:
    """The videos of items with their scores."""
    videos = _video_fields(recommender, [item for item, _ in items])
    return [FoundVideo(**fields, score=round(score, 4)) for fields, (_, score) in zip(videos, items, strict=True)]


def attention(user_id: str, video_id: str, bundle: str, found: Attention | str) -> AttentionAnswer:
    told: Fields = {"user_id": user_id, "video_id": video_id, "bundle": bundle}
    if isinstance(found, str):
        return AttentionAnswer(**told, reason=found)
    stages = [
        StageAttention(kernel=stage.kernel, logit=round(stage.logit, 4), places=_rows(stage.places, found.side))
        for stage in found.stages
    ]
    return AttentionAnswer(
        **told,
        known=found.known,
        seen=round(found.seen, 4),
        logit=round(found.logit, 4),
        places=_rows(found.places, found.side),
        stages=stages,
    )


def _rows(places: list[float], side: int) -> list[list[float]]:
    return [[round(place, 6) for place in places[start : start + side]] for start in range(0, len(places), side)]


def tracks(music: Music, best: Best) -> list[Track]:
    """Tracks with their scores."""
    rounded = zip(*(np.round(column.astype(float), 4).tolist() for column in best[1:]), strict=True)
    return [
        Track(
            **{name: facts[name] for name in ("track_id", "title", "artist")},
            score=score,
            fit=None if np.isnan(fit) else fit,
            rating=rating,
            file=f"/v1/tracks/{quote(facts['track_id'], safe='')}/file" if media_location(facts["uri"]) else None,
        )
        for facts, (score, fit, rating) in zip(music.facts_of(best.rows), rounded, strict=True)
    ]


def media_location(uri: str | None) -> Path | str | None:
    """Where a file of the catalog is: a path on this machine, or a URI. None if nothing says where, or it is not a media file."""
    if uri is None or uri.startswith(WEB):
        return uri
    if not media_type(uri).startswith(("video/", "audio/", "image/")):
        return None
    if uri.startswith("file://"):
        return Path(url2pathname(uri.removeprefix("file://")))
    return uri if "://" in uri else Path(uri) if uri.startswith("/") else None


def media_type(uri: str) -> str:
    """What a file holds, by the ending of its name, such as video/mp4."""
    return mimetypes.guess_type(split_uri(uri).path if "://" in uri else uri)[0] or "application/octet-stream"


def cover_path(facts: dict[str, Any]) -> str | None:
    """The path of a video's cover in the API, from a row of the bundle's items."""
    return f"{_video_path(facts)}/cover" if facts["has_cover"] else None


def _video_path(facts: dict[str, Any]) -> str:
    return f"/v1/videos/{quote(facts['video_id'], safe='')}"


def _video_fields(recommender: Recommender, items: Sequence[int]) -> list[Fields]:
    """The fields of each item's `Video`. They are cached, because making those of one page takes half a millisecond.

    Must be called in the event loop only.
    """
    cached = _cache.setdefault(recommender, {})
    if missing := [item for item in items if item not in cached]:
        if len(cached) + len(missing) > MAX_CACHED:
            cached.clear()
            missing = list(items)
        rows = recommender.items.facts_of(np.array(missing))
        cached.update({item: _fields_of(row, recommender.bundle.words) for item, row in zip(missing, rows, strict=True)})
    return [cached[item] for item in items]


def _reason(why: str, topic: int, words: dict[int, list[str]]) -> Fields:
    """Why a video is in the page."""
    if topic == NO_TOPIC:
        return {"why": why, "topic": None}
    return {"why": "topic: " + (", ".join(words.get(topic, [])) or str(topic)), "topic": topic}


def _fields_of(facts: dict[str, Any], words: dict[int, list[str]]) -> Fields:
    """The fields of a `Video`, from a row of the bundle's items."""
    topics = zip(facts["topics"] or [], facts["similarity"] or [], strict=True)
    unchanged = ("video_id", "title", "author_id", "primary_class", "secondary_class", "published_at", "duration_s")
    return {
        **{name: facts[name] for name in unchanged},
        "tags": facts["tags"] or [],
        "topics": [{"topic": topic, "words": words.get(topic, []), "similarity": round(alike, 4)} for topic, alike in topics],
        "cover": cover_path(facts),
        "file": f"{_video_path(facts)}/file" if media_location(facts["uri"]) else None,
    }
