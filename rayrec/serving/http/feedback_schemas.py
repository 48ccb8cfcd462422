"""The parts of answers that say what users said of videos, and what follows from it."""

from typing import Literal

from pydantic import BaseModel, Field

from rayrec.serving.http.bodies import example

GIVEN = {
    "kind": "less_author",
    "video_id": "v7",
    "at": 1763700000000,
    "left": 0.93,
    "title": "A song in the rain",
    "author_id": "bob",
    "topic": 3,
    "words": ["guitar", "song"],
}
MOVED = {"kind": "like", "scope": "topic", "factor": 1.6}


class GivenFeedback(BaseModel):
    model_config = example(**GIVEN)

    kind: str = Field(description="kind of the event by which it was given")
    video_id: str = Field(description="the video about which it was given; an event `undo` of this video takes it back")
    at: int = Field(description="UTC milliseconds")
    left: float = Field(description="what time has left of its effect, from 1 down to 0; a block does not fade")
    title: str | None = None
    author_id: str | None = None
    topic: int | None = Field(default=None, description="the nearest of the video's topics, about which `less_topic` is")
    words: list[str] = Field([], description="the most typical tags of this topic")


class Moved(BaseModel):
    model_config = example(**MOVED)

    kind: str = Field(description="kind of the feedback that moved the video most, such as `like` or `less_topic`")
    scope: Literal["topic", "author", "near"] = Field(description="what the video has in common with that of the feedback")
    factor: float = Field(description="by what all of the user's feedback multiplied the score before the page was chosen")


class FeedbackUsed(BaseModel):
    model_config = example(raised=12, lowered=140)

    raised: int = Field(description="number of candidates whose scores the user's feedback raised")
    lowered: int = Field(description="number of candidates whose scores it lowered")
