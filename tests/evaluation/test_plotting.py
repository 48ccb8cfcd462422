"""Text of users in plots is drawn as it is."""

import io

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rayrec.evaluation.plotting import plain
from rayrec.evaluation.topic_report import colours, draw_map

TEXTS = ["$5", "$x_1$", "100 $ and 200 $", r"a\$b", r"$\frac{1}$", "$$", "_x", "a_b^c", ""]


def pixels(text: str, **options: bool) -> np.ndarray:
    figure = Figure(figsize=(3, 0.5))
    figure.text(0.1, 0.3, text, **options)
    file = io.BytesIO()
    figure.savefig(file)
    return np.array(Image.open(file))


@pytest.mark.parametrize("text", TEXTS)
def test_a_dollar_sign_is_a_dollar_sign(text: str) -> None:
    assert (pixels(plain(text)) == pixels(text, parse_math=False)).all()


def test_a_map_is_drawn_whatever_the_names_of_the_classes() -> None:
    catalog = pa.table({"video_id": [f"v{n}" for n in range(len(TEXTS))], "primary_class": TEXTS})
    topics = pa.table({"video_id": catalog["video_id"], "topics": [[0]] * len(TEXTS)})
    places = np.random.default_rng(0).normal(size=(len(TEXTS), 2))
    assert draw_map(places, topics, colours(catalog, topics), []).startswith(b"\x89PNG")
