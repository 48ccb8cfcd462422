"""The config: one typed tree with defaults. A config file contains only what differs from them.

A stage is redone when the sections that it depends on change (or `seed`), and not when others do.
"""

from rayrec.config.ab_test import ABTest
from rayrec.config.base import ConfigError, Count, Section, Share, dump, need_package, settings_of
from rayrec.config.collaborative import Collaborative
from rayrec.config.datasets import (
    DATASETS,
    ClickRule,
    FilesData,
    MovieLensData,
    SimulatedData,
    SlideshowData,
    SplitsData,
    WorldData,
    YouTubeData,
)
from rayrec.config.experiments import Experiment, ExperimentArm, changed_settings, layers_of
from rayrec.config.features import (
    EXTRACTED_MODALITIES,
    MODALITIES,
    PACKAGED,
    YAMNET_RATE,
    AudioFeatures,
    Compression,
    Features,
    ImageFeatures,
    LayerCompression,
    Maps,
    Modality,
    MotionFeatures,
    PrivatePublic,
    Reduction,
    TextFeatures,
)
from rayrec.config.feedback import Effect, FeedbackEffects
from rayrec.config.goals import Formula, Goal, GoalNetwork, scored
from rayrec.config.loading import load, with_values
from rayrec.config.music import MovieLensMusic, Music, MusicFiles, SoundNetwork, UserNetwork, WordNetwork, WorldMusic
from rayrec.config.ranking import Ranker, Split
from rayrec.config.recall import Evaluation, Recall, RecallSource, Selection
from rayrec.config.replay import Replay
from rayrec.config.search import PICTURE, SOUND, WORDS, Search
from rayrec.config.serving import Serving, Uploads
from rayrec.config.topics import CoverNetwork, Topics
from rayrec.config.training import ByKind, Choices, Comparison, Domain, Encoding, Lists, Negatives, Span, Training, Tuning
from rayrec.config.tree import Config

__all__ = [
    "DATASETS",
    "EXTRACTED_MODALITIES",
    "MODALITIES",
    "PACKAGED",
    "PICTURE",
    "SOUND",
    "WORDS",
    "YAMNET_RATE",
    "ABTest",
    "AudioFeatures",
    "ByKind",
    "Choices",
    "ClickRule",
    "Collaborative",
    "Comparison",
    "Compression",
    "Config",
    "ConfigError",
    "Count",
    "CoverNetwork",
    "Domain",
    "Effect",
    "Encoding",
    "Evaluation",
    "Experiment",
    "ExperimentArm",
    "Features",
    "FeedbackEffects",
    "FilesData",
    "Formula",
    "Goal",
    "GoalNetwork",
    "ImageFeatures",
    "LayerCompression",
    "Lists",
    "Maps",
    "Modality",
    "MotionFeatures",
    "MovieLensData",
    "MovieLensMusic",
    "Music",
    "MusicFiles",
    "Negatives",
    "PrivatePublic",
    "Ranker",
    "Recall",
    "RecallSource",
    "Reduction",
    "Replay",
    "Search",
    "Section",
    "Selection",
    "Serving",
    "Share",
    "SimulatedData",
    "SlideshowData",
    "SoundNetwork",
    "Span",
    "Split",
    "SplitsData",
    "TextFeatures",
    "Topics",
    "Training",
    "Tuning",
    "Uploads",
    "UserNetwork",
    "WordNetwork",
    "WorldData",
    "WorldMusic",
    "YouTubeData",
    "changed_settings",
    "dump",
    "layers_of",
    "load",
    "need_package",
    "scored",
    "settings_of",
    "with_values",
]
