"""The road from raw videos to a bundle, stage by stage: what each reads, writes and depends on.

    ingest -> extract -> [private_public] -> reduce -> topics -> train -> evaluate
                                                                       -> publish -> (serve)

A stage is redone when one of its settings, one of the versions it reads, or one of its source files has changed. Each is a function
from a `StageRun`; `rayrec NAME CONFIG`, `rayrec run CONFIG` and the scripts under `jobs/` all come through `run_stages`.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from rayrec.config import Config
from rayrec.datasets import ingestion
from rayrec.evaluation import topic_report
from rayrec.evaluation.offline import evaluate
from rayrec.features import extraction, private_public_training, reducing
from rayrec.serving.publishing import publish
from rayrec.topics import learning
from rayrec.training import comparison, data, distributed, tuning
from rayrec.workspace import Manifest, Stage, Workspace, settings_of

TRUTH = ("truth_topics", "truth_clicks", "truth_preferences")

TOPICS = Stage(
    "topics",
    learning.learn_topics,
    reads=("catalog",),
    may_read=("vectors", "features"),
    writes=("topics", "topic_centres", "tag_vectors", "embeddings"),
    settings=learning.settings,
    sources=learning.sources,
)
# New videos get topics from the model that is there: the same tables, made without training.
ASSIGN_TOPICS = replace(TOPICS, work=learning.assign_topics)
TOPIC_REPORT = Stage(
    "topic_report",
    topic_report.report,
    reads=("catalog", "topics", "topic_centres", "embeddings"),
    may_read=("features", "vectors", "truth_topics"),
    settings=learning.settings,
)
# Beside the road: they try rankers on the tables that are there.
TUNE = Stage("tune", tuning.tune_ranker, reads=data.READS, may_read=data.MAY_READ, settings=tuning.settings)
COMPARE = Stage("compare", comparison.compare, reads=data.READS, may_read=data.MAY_READ, settings=comparison.settings)

STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "ingest",
            ingestion.ingest,
            writes=("catalog", "interactions", "users", *TRUTH),
            settings=lambda config: settings_of(config.dataset),
            sources=ingestion.sources,
        ),
        Stage(
            "extract",
            extraction.extract,
            reads=("catalog",),
            writes=("features",),
            settings=extraction.settings,
            sources=extraction.sources,
        ),
        Stage(
            "private_public",
            private_public_training.learn_private_public,
            reads=("catalog",),
            writes=("private_public",),
            settings=private_public_training.settings,
            sources=extraction.sources,
            wanted=lambda config: config.private_public is not None,
        ),
        Stage(
            "reduce",
            reducing.reduce,
            reads=("features",),
            may_read=("interactions", "private_public"),
            after=("extract",),
            writes=("vectors",),
            settings=reducing.settings,
        ),
        TOPICS,
        Stage(
            "train",
            distributed.train,
            reads=data.READS,
            may_read=data.MAY_READ,
            settings=distributed.settings,
        ),
        # The only stage that may look at the truth of the synthetic world.
        Stage(
            "evaluate",
            evaluate,
            reads=data.READS,
            may_read=(*data.MAY_READ, *TRUTH),
            after=("train",),
            writes=("predictions",),
            settings=lambda config: settings_of(config.evaluation, config.recall),
        ),
        Stage(
            "publish",
            publish,
            reads=data.READS,
            may_read=(*data.MAY_READ, "features", "topic_centres", "embeddings", "predictions"),
            after=("train",),
            settings=lambda config: settings_of(config.recall),
        ),
    )
}

log = logging.getLogger(__name__)


def road(config: Config) -> list[Stage]:
    """The stages that this config wants, in order."""
    return [stage for stage in STAGES.values() if stage.wanted(config)]


def run_stages(
    stages: Iterable[Stage],
    config: Config,
    force: bool = False,
    on_done: Callable[[Manifest, bool], None] = lambda manifest, done: None,
) -> None:
    """Run the stages that the config wants; `on_done` gets each one's manifest and whether anything was done."""
    workspace = Workspace(config.workspace)
    for stage in stages:
        if not stage.wanted(config):
            log.info("%s: left out, the config has no such section", stage.name)
            continue
        log.info("%s ...", stage.name)
        on_done(*workspace.run(stage, config, force))
