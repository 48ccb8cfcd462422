"""Reads tracks and their ratings: from files of one's own, or from MovieLens 100K, with its films in the place of tracks."""

from rayrec.config import ConfigError, MovieLensMusic, MusicFiles, WorldMusic
from rayrec.datasets import movielens
from rayrec.datasets.dataset import RawMusic
from rayrec.datasets.files import folder_of, paths_in, source_of
from rayrec.workspace.stores import join_uri


def read_music(settings: MusicFiles | MovieLensMusic | WorldMusic) -> RawMusic:
    """The tables that the config names. To read them raises `TableError` when a file can't be read or lacks a column.

    Raises `ConfigError` for the music of a synthetic world, which comes with that world alone.
    """
    if isinstance(settings, WorldMusic):
        raise ConfigError("music.data.kind: `world` needs the people of `dataset.kind: world`; name files of tracks and ratings")
    if isinstance(settings, MovieLensMusic):
        return RawMusic(*movielens.music_of(*music_files(settings)), rating_range=settings.rating_range)
    return RawMusic(
        source_of("tracks", settings),
        source_of("ratings", settings),
        media_root=settings.media_root or folder_of(paths_in(settings.tracks)[0]),
        confined=settings.media_root is not None,
        rating_range=settings.rating_range,
    )


def music_files(settings: MusicFiles | MovieLensMusic | WorldMusic) -> list[str]:
    """Every file and folder that is read, those of the tracks first."""
    if isinstance(settings, WorldMusic):
        return []
    if isinstance(settings, MovieLensMusic):
        return [join_uri(settings.path, name) for name in ("u.item", "u.data")]
    return [*paths_in(settings.tracks), *paths_in(settings.ratings)]
