"""The stage `topic_report`: a page that shows the topics, for `rayrec topics report`.

It writes a folder with `index.html`, a contact sheet of covers for each topic, and the scores of the representations as JSON.
"""

from dataclasses import asdict

import numpy as np

from rayrec.errors import RayrecError
from rayrec.stages.topics import settings
from rayrec.workspace.files import to_json
from rayrec.workspace.stage import Stage, StageRun

REPORT, SCORES = "index.html", "representations.json"


def report(run: StageRun) -> None:
    """The work of the stage. Raises `RayrecError` when there are no topics to report on."""
    from rayrec.evaluation import topic_report as drawing
    from rayrec.evaluation.representations import compare, known_classes
    from rayrec.topics.describing import describe

    catalog, topics, centres, embeddings = (run.read(name) for name in ("catalog", "topics", "topic_centres", "embeddings"))
    if not topics.num_rows:
        raise RayrecError("topics: there are none, so there is nothing to report; give the catalog titles, tags or covers")
    features, vectors = run.read_if_there("features", ["video_id", "cover_jpeg"]), run.read_if_there("vectors")
    described = describe(catalog, topics, np.stack(centres["centre"].to_numpy()))
    classes = known_classes(catalog, run.read_if_there("truth_topics"))
    pixels = features if run.config.topics.cover_network is not None else None
    scores = compare(catalog, vectors, pixels, classes, run.config.topics, run.config.seed) if classes else {}
    run.write_file(SCORES, to_json({name: {kind: asdict(one) for kind, one in kinds.items()} for name, kinds in scores.items()}))
    sheets = {}
    if features is not None:
        for one in described:
            if sheet := drawing.contact_sheet(drawing.covers_of(features, one.typical_videos)):
                sheets[one.topic] = f"topic-{one.topic}.jpg"
                run.write_file(f"sheets/{sheets[one.topic]}", sheet)
    places = drawing.planar_map(np.stack(embeddings["vector"].to_numpy()), run.config.seed)
    pictures = {
        "map": drawing.draw_map(places, topics, drawing.colours(catalog, topics), described),
        "histogram": drawing.draw_histogram([len(found) for found in topics["topics"].to_pylist()]),
        "ratios": drawing.draw_ratios(scores),
    }
    run.write_file(REPORT, drawing.page(catalog, described, scores, sheets, pictures).encode())
    run.count(rows_in=catalog.num_rows, rows_out=topics.num_rows)


STAGE = Stage(
    "topic_report",
    report,
    reads=("catalog", "topics", "topic_centres", "embeddings"),
    may_read=("features", "vectors", "truth_topics"),
    settings=settings,
)
