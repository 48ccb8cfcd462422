"""The whole config: one typed tree with a section for each part of the pipeline."""

from typing import Annotated

from pydantic import Field, model_validator

from rayrec.config.ab_test import ABTest
from rayrec.config.base import Section, Share
from rayrec.config.collaborative import Collaborative
from rayrec.config.datasets import AnyDataset, WorldData
from rayrec.config.experiments import changed_settings
from rayrec.config.features import Features, PrivatePublic, Reduction
from rayrec.config.goals import Formula
from rayrec.config.music import Music
from rayrec.config.off_policy import OffPolicy
from rayrec.config.ranking import Ranker, Split
from rayrec.config.recall import Evaluation, Recall, Selection
from rayrec.config.replay import Replay
from rayrec.config.search import Search
from rayrec.config.serving import Serving
from rayrec.config.topics import Topics
from rayrec.config.training import Comparison, Encoding, Training, Tuning


class Config(Section):
    """The root of the tree."""

    workspace: str = "workspace"  # a local folder, or any URI that pyarrow or fsspec opens
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 7
    max_rejects: Share = 0.1  # a stage fails when a larger share of its rows is bad
    dataset: Annotated[AnyDataset, Field(discriminator="kind")] = WorldData()
    features: Features = Features()
    private_public: PrivatePublic | None = None  # the stage is skipped unless this section is there
    reduction: Reduction = Reduction()
    topics: Topics = Topics()
    search: Search | None = None  # the stage `search_index` is skipped unless this section is there
    split: Split = Split()
    encoding: Encoding = Encoding()
    ranker: Ranker = Ranker()
    training: Training = Training()
    tuning: Tuning = Tuning()
    comparison: Comparison = Comparison()
    replay: Replay = Replay()
    ab_test: ABTest = ABTest()
    off_policy: OffPolicy = OffPolicy()
    evaluation: Evaluation = Evaluation()
    collaborative: Collaborative | None = None  # the stage is skipped unless this section is there
    music: Music | None = None  # the stage is skipped unless this section is there
    recall: Recall = Recall()
    selection: Selection = Selection()
    serving: Serving = Serving()

    @model_validator(mode="after")
    def _maps_for_kernels(self) -> "Config":
        if self.ranker.reads_maps and (self.features.image is None or self.features.image.maps is None):
            raise ValueError(
                "the ranker has user kernels, which read the feature maps of covers, but `extract` does not keep these; set "
                "features.image.maps={}, or choose a ranker without user kernels"
            )
        return self

    @model_validator(mode="after")
    def _score_fits(self) -> "Config":
        try:
            self._check_score(self.selection)
        except ValueError as error:
            raise ValueError(f"selection.score: {error}") from error
        return self

    @model_validator(mode="after")
    def _arms_fit(self) -> "Config":
        for name, experiment in self.serving.experiments.items():
            for arm, its in experiment.arms.items():
                try:
                    _, selection = changed_settings(self.recall, self.selection, its.changes)
                    self._check_score(selection)
                except ValueError as error:
                    raise ValueError(f"serving.experiments.{name}.arms.{arm}.changes: {error}") from error
        return self

    def _check_score(self, selection: Selection) -> None:
        """Raises `ValueError` with a sentence for a formula that is none of this ranker's goals."""
        if selection.score is not None:
            Formula.parse(selection.score, list(self.ranker.goals))
