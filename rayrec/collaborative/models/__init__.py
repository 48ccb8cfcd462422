"""The models, one in each file, found by file name: `collaborative.model: ease` is the `CollaborativeModel` of `ease.py`."""

import pkgutil

from rayrec.collaborative.model import CollaborativeModel
from rayrec.config import Collaborative
from rayrec.registry import find_class, read_options

NAMES = [module.name for module in pkgutil.iter_modules(__path__)]


def build(settings: Collaborative) -> CollaborativeModel:
    """An unfitted model. Raises `ConfigError`, with the nearest name, for a model or an option that does not exist."""
    model = find_class(__name__, NAMES, settings.model, CollaborativeModel, "collaborative.model", "model")
    options = read_options(model.Options, settings.options, "collaborative.options", f"model {settings.model!r}")
    found: CollaborativeModel = model(options)
    return found
