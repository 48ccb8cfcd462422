"""The section `recall.feedback`: how strongly what users say of videos changes their next pages, and for how long."""

from typing import Annotated

from pydantic import Field

from rayrec.config.base import Section

Strength = Annotated[float, Field(ge=-20, le=20)]
Days = Annotated[float, Field(gt=0)]


class Effect(Section):
    """What a new event does to the scores of other videos: the natural logarithms of factors, so that -6 divides by 400."""

    topic: Strength = 0.0  # of videos on the same topic, which is the nearest of the video's topics
    author: Strength = 0.0  # of videos of the same author
    near: Strength = 0.0  # of videos with the same content; those that are less similar get a part of it
    half_life_days: Days = 30.0  # after so long, half of each logarithm is left


class Like(Effect):
    """Events of kind `like`: more of what is similar. The topic of a liked video is also searched, as those of clicks are."""

    topic: Strength = 0.3  # of videos on the same topic, which is the nearest of the video's topics
    author: Strength = 0.3  # of videos of the same author
    near: Strength = 0.3  # of videos with the same content; those that are less similar get a part of it
    half_life_days: Days = 7.0  # after so long, half of each logarithm is left


class Skip(Effect):
    """Events of kind `skip`, each of which says little."""

    topic: Strength = -0.1  # of videos on the same topic, which is the nearest of the video's topics
    author: Strength = -0.05  # of videos of the same author
    near: Strength = -0.3  # of videos with the same content; those that are less similar get a part of it
    half_life_days: Days = 1.0  # after so long, half of each logarithm is left


class NotInterested(Effect):
    """Events of kind `not_interested`: fewer videos like this one, which itself never comes again."""

    topic: Strength = -0.1  # of videos on the same topic, which is the nearest of the video's topics
    author: Strength = -0.1  # of videos of the same author
    near: Strength = -0.5  # of videos with the same content; those that are less similar get a part of it


class LessTopic(Effect):
    """Events of kind `less_topic`."""

    topic: Strength = -6.0  # of videos on the same topic, which is the nearest of the video's topics


class LessAuthor(Effect):
    """Events of kind `less_author`."""

    author: Strength = -6.0  # of videos of the same author


class FeedbackEffects(Section):
    """What users said of videos changes their pages from the next request on."""

    like: Like = Like()
    skip: Skip = Skip()
    not_interested: NotInterested = NotInterested()
    less_topic: LessTopic = LessTopic()
    less_author: LessAuthor = LessAuthor()
    repeats: Annotated[float, Field(ge=1)] = 3.0  # what is said again and again counts at most as often as this
    near_from: Annotated[float, Field(ge=-1, lt=1)] = 0.5  # the cosine similarity from which videos count as similar
