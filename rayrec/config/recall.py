"""The sections `recall`, `selection` and `evaluation`: from a user's clicks to a page, and how pages are judged."""

from typing import Annotated

from pydantic import Field

from rayrec.config.base import Count, Section, Share


class Recall(Section):
    """SOURCES C.4."""

    clicks: Count = 128  # N1: how many of the latest clicks speak for a user
    topics: Count = 4  # N2: how many of their topics are searched
    candidates: Count = 600  # N3
    min_exposures: Annotated[int, Field(ge=0)] = 10  # a video with fewer is fresh
    min_ctr: Share = 0.07  # an established video below this leaves its queue
    fresh_share: Share = 0.1


class Selection(Section):
    """How a page is taken from the scored candidates."""

    max_per_topic: Count | None = None  # videos of a page; a rule gives way where the page would not be full otherwise
    max_per_author: Count | None = None
    explore: Share = 0  # share of a page's places that go to fresh videos, whatever their score


class Evaluation(Section):
    k: Count = 10  # of Recall@k and NDCG@k
