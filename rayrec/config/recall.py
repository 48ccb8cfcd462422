"""The sections `recall`, `selection` and `evaluation`: how a user's clicks become a page, and how pages are measured."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from rayrec.config.base import Count, Section, Share
from rayrec.config.feedback import FeedbackEffects


class RecallSource(Section):
    """A number in place of the section is its `share`."""

    share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the candidates; backfill adds what the sources leave
    options: dict[str, Any] = {}  # `Options` in the source's file says which there are

    @model_validator(mode="before")
    @classmethod
    def _share_alone(cls, value: Any) -> Any:
        return {"share": value} if isinstance(value, int | float) else value


class Recall(Section):
    """Topic recall as in Pu et al., "Multimodal Topic Learning for Video Recommendation"."""

    # By the names of files in `rayrec/recall/sources/`. Of an item that several sources bring, the first one's counts.
    sources: dict[str, RecallSource] = {"topics": RecallSource()}
    clicks: Count = 128  # N1: how many of the latest clicks speak for a user
    topics: Count = 4  # N2: how many of their topics are searched
    candidates: Count = 600  # N3
    min_exposures: Annotated[int, Field(ge=0)] = 10  # a video with fewer is fresh
    min_ctr: Share = 0.07  # an established video below this leaves its queue
    fresh_share: Share = 0.1
    seen_days: Annotated[float, Field(gt=0)] = 90.0  # a video that a user has seen is not shown again for so long
    feedback: FeedbackEffects | None = FeedbackEffects()  # null: what users say has no effect, save that blocks hold

    @model_validator(mode="after")
    def _shares_fit(self) -> "Recall":
        total = sum(source.share for source in self.sources.values())
        if total > 1 + 1e-9:
            raise ValueError(f"the shares of recall.sources add up to {total:g}; make them 1 or less")
        return self


class Selection(Section):
    """How a page is taken from the scored candidates."""

    max_per_topic: Count | None = None  # videos of a page; a rule gives way where the page would not be full otherwise
    max_per_author: Count | None = None
    explore: Share = 0  # share of a page's positions for which a fresh video is drawn by Thompson sampling, whatever its score
    # By what a page is ordered: a product of powers of `ranker.goals`, such as "click * finish^0.5"; none: by the first goal
    score: str | None = None


class Evaluation(Section):
    k: Count = 10  # of Recall@k and NDCG@k
    max_users: Count = 20_000  # whose pages are made; of more users in the test split, so many are drawn
