"""The sections `split` and `ranker`: the data of a ranker, and its network."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from rayrec.config.base import Count, Section, Share
from rayrec.config.features import Modality
from rayrec.config.goals import Goal, GoalNetwork, check_goals, is_click


def _each_once(names: list[str]) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is there {names.count(name)} times")
    return names


# What became of an impression, which is not known when it is shown.
OUTCOMES: tuple[str, ...] = ("clicked", "watched", "liked", "skipped", "clicked_at", "watched_at", "liked_at", "skipped_at")
OUTCOMES += ("watch_s", "dwell_s", "rating")


def _known_at_request(names: list[str]) -> list[str]:
    for name in names:
        if name in ("user_id", "video_id", "shown_at", "delivered_at", *OUTCOMES):
            raise ValueError(
                f"{name!r} is no context: that is what is known of a request, whoever asks and whatever is clicked then"
            )
    return names


Names = Annotated[list[str], AfterValidator(_each_once)]


class Split(Section):
    """Shares of the log, by time: the oldest impressions are for training, the next for validation, the newest for the test.

    Where the log has no times, they are shares of the impressions of each user, drawn at random.
    """

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Ranker(Section):
    """Which network ranks the candidates, and what it is built from."""

    model: str = "wide_deep"
    options: dict[str, Any] = {}  # of this model; `Options` in its file says which there are
    embedding_size: Count = 16
    topic_size: Count = 8  # of topic embeddings (Pu et al.); models whose fields must have one size use embedding_size
    hidden: list[Count] = [128, 64]
    dropout: Share = 0.1
    history_length: Count = 50  # of the latest clicks; models of sessions have `options.sessions` and `session_length` instead
    # Where the clicked videos enter the network: below the MLP, at its last layer, at both, or not at all.
    history_connection: Literal["input", "top", "both", "none"] = "input"
    id_dropout: Share = 0.1  # share of video ids hidden in training, so that the ranker learns to score new videos by their content
    item_fields: Names = ["author_id", "primary_class", "secondary_class"]  # columns of the catalog; `tags` is possible too
    # extra columns of the log; `hour` and `weekday` (UTC) are made from the time. `position` counts in training alone: all
    # candidates are scored as if they were in the first position of the log
    context_fields: Annotated[Names, AfterValidator(_known_at_request)] = []
    topics: bool = True
    modalities: Annotated[list[Modality], AfterValidator(_each_once)] = []  # reduced vectors that the ranker reads directly
    # Half-lives, in days, of counts by which the ranker knows how popular a video has been lately; none: it does not know
    popularity: list[Annotated[float, Field(gt=0)]] = []
    # Whether kernels of each user's own, over the feature maps of covers (`features.image.maps`), add to the logits of the model;
    # the model `user_kernel` is made of them alone.
    user_kernels: bool = False
    # Half-life, in days, of the exposures by which a page multiplies the click probability of each video; none: it does not.
    # For logs of what people chose themselves, such as ratings, which don't say what they would pass over
    shown_half_life: Annotated[float, Field(gt=0)] | None = None
    fusion: Literal["concat", "attention", "user_attention"] = "concat"  # of the modalities (Hasama & Li)
    # Name -> goal: what the ranker predicts, if it is more than the click. `selection.score` makes one score of them
    goals: dict[str, Goal] = {}
    goal_network: GoalNetwork = GoalNetwork()

    @model_validator(mode="after")
    def _goals_fit(self) -> "Ranker":
        check_goals(self.goals)
        if predicted := {goal.label for goal in self.goals.values()} & set(self.context_fields):
            raise ValueError(f"context_fields: {min(predicted)!r} is what a goal predicts, so that it is no context")
        if self.goals and self.shown_half_life is not None:
            raise ValueError("shown_half_life multiplies the click probability alone; remove it, or the goals")
        return self

    @property
    def click_goal(self) -> int:
        """The place of the click among the goals."""
        return next(place for place, goal in enumerate(self.goals.values()) if is_click(goal))

    @property
    def reads_maps(self) -> bool:
        """Whether the ranker needs the feature maps of the covers."""
        return self.user_kernels or self.model == "user_kernel"

    @property
    def half_lives(self) -> list[float]:
        """All half-lives of which counts are needed, that of the page last."""
        return [*self.popularity, *([] if self.shown_half_life is None else [self.shown_half_life])]

    @property
    def history_at_input(self) -> bool:
        return self.history_connection in ("input", "both")

    @property
    def history_at_top(self) -> bool:
        return self.history_connection in ("top", "both")
