"""rayrec: a recommender for short videos, from raw videos to recommendations over HTTP, on Ray."""

__version__ = "0.1.0"
