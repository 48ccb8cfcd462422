"""The road from raw videos to a bundle, stage by stage: what each reads, writes and depends on.

    ingest -> extract -> topics -> train -> evaluate
                                         -> publish -> (serve)

A stage is redone when one of its settings, one of the versions it reads, or one of its source files has changed. Each is a function
from a `StageRun`; `rayrec NAME CONFIG`, `rayrec run CONFIG` and the scripts under `jobs/` all come through `run_stages`.
"""

import logging
from collections.abc import Callable, Iterable

from rayrec.config import Config
from rayrec.datasets import ingestion
from rayrec.evaluation.offline import evaluate
from rayrec.features import extraction
from rayrec.serving.publishing import publish
from rayrec.topics.learning import learn_topics
from rayrec.training import data
from rayrec.training.distributed import train
from rayrec.workspace import Manifest, Stage, Workspace, settings_of

TRUTH = ("truth_topics", "truth_clicks", "truth_preferences")

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
            "topics",
            learn_topics,
            reads=("catalog",),
            may_read=("features",),
            writes=("topics", "topic_centres", "tag_vectors", "embeddings"),
            settings=lambda config: settings_of(config.topics),
        ),
        Stage(
            "train",
            train,
            reads=data.READS,
            may_read=data.MAY_READ,
            settings=lambda config: settings_of(config.split, config.ranker, config.training),
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
            may_read=(*data.MAY_READ, "topic_centres"),
            after=("train",),
            settings=lambda config: settings_of(config.recall),
        ),
    )
}

log = logging.getLogger(__name__)


def run_stages(
    names: Iterable[str],
    config: Config,
    force: bool = False,
    on_done: Callable[[Manifest, bool], None] = lambda manifest, done: None,
) -> None:
    """Run the named stages in order; `on_done` gets each one's manifest and whether anything had to be done."""
    workspace = Workspace(config.workspace)
    for name in names:
        log.info("%s ...", name)
        on_done(*workspace.run(STAGES[name], config, force))
