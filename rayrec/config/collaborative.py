"""The section `collaborative`: a model of who liked what, which needs nothing of the videos but their ids."""

from typing import Any

from rayrec.config.base import Section


class Collaborative(Section):
    """Which model learns from the clicks alone. The stage `collaborative` trains it, for recall and for comparisons."""

    model: str = "ease"  # by the names of files in `rayrec/collaborative/models/`
    options: dict[str, Any] = {}  # of this model; `Options` in its file says which there are
