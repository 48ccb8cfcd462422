"""The section `music`: where tracks and their ratings come from, and the model that predicts how a user would rate a track."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayrec.config.base import Count, Section, Share


class MusicFiles(Section):
    """Tracks and ratings in Parquet, CSV or JSON lines."""

    kind: Literal["files"] = "files"
    tracks: str | Annotated[list[str], Field(min_length=1)]  # one or several files or folders of tables
    ratings: str | Annotated[list[str], Field(min_length=1)]
    # Our column names -> yours, where they differ.
    tracks_columns: dict[str, str] = {}
    ratings_columns: dict[str, str] = {}
    media_root: str | None = None  # the folder that relative uris start from; the default is the folder of the tracks
    list_separator: str = "|"  # splits `tags` where they are plain text
    # Of times that are numbers; dates and timestamps need no unit. With auto, a number has the unit in which it is of after 1990.
    time_unit: Literal["auto", "s", "ms", "us"] = "auto"
    # The lowest and the highest rating that users can give; others are rejected. If null, all are right.
    rating_range: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "MusicFiles":
        if self.rating_range is not None and not self.rating_range[0] < self.rating_range[1]:
            raise ValueError("rating_range is the lowest rating and then the highest, such as [1, 5]")
        return self


class MovieLensMusic(Section):
    """The films of MovieLens 100K in the place of tracks, with their ratings: for benchmarks."""

    kind: Literal["movielens"]
    path: str  # the folder that holds u.data and u.item

    @property
    def rating_range(self) -> tuple[float, float]:
        return 1.0, 5.0


class WorldMusic(Section):
    """Tracks with the sounds of the synthetic world, rated by its people. It needs `dataset.kind: world`."""

    kind: Literal["world"]
    tracks: Count = 48
    seconds: Annotated[float, Field(gt=0)] = 8.0  # of each track
    ratings: Count = 12  # of each user

    @property
    def rating_range(self) -> tuple[float, float]:
        return 1.0, 5.0


class UserNetwork(Section):
    """The stacked denoising autoencoder that reads what the table `users` says of a user."""

    hidden: list[Count] = [64]  # units of the layers between the input and the bottleneck
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.3  # share of the facts that training hides from the encoder
    reconstruction: Annotated[float, Field(ge=0)] = 0.1  # weight of the loss by which the network restores its input


class WordNetwork(Section):
    """The convolutions over the words of a track: its title, artist and tags."""

    max_words: Count = 20_000  # of the vocabulary, those of the most tracks first
    length: Count = 64  # words of a track that are read
    embedding: Count = 32  # numbers of a word
    windows: Annotated[list[Count], Field(min_length=1)] = [1, 2]  # words that a filter sees at a time
    filters: Count = 32  # for each width of the window
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2


class SoundNetwork(Section):
    """The convolutions over the log-mel spectrogram of a track: 64 bands, in patches of .96 s."""

    patches: Count = 8  # of a track, spread evenly over its sound
    channels: Annotated[list[Count], Field(min_length=1)] = [16, 32, 64]  # of the layers, each of which halves bands and time
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2


class Music(Section):
    """The background music. The stage `music` learns from the ratings which track a user would like."""

    data: Annotated[MusicFiles | MovieLensMusic | WorldMusic, Field(discriminator="kind")]
    model: Literal["pmf"] = "pmf"  # probabilistic matrix factorisation with learned priors
    # What the prior of a user's vector is learned from: sdae, from the columns of the table `users`; none, it is the same for all.
    users: Literal["none", "sdae"] = "sdae"
    # What the prior of a track's vector is learned from: its title, artist and tags, or its sound.
    tracks: Literal["none", "words", "sound"] = "words"
    size: Count = 32  # numbers of a vector, beside the offset
    # By which a user's vector is drawn to its prior: the variance of ratings over that of vectors. The higher, the stronger.
    user_penalty: Annotated[float, Field(ge=0)] = 10.0
    track_penalty: Annotated[float, Field(ge=0)] = 10.0
    sdae: UserNetwork = UserNetwork()
    words: WordNetwork = WordNetwork()
    sound: SoundNetwork = SoundNetwork()
    held_out: Annotated[Share, Field(lt=1)] = 0.1  # share of the ratings on which the epoch is chosen; 0: the last epoch counts
    epochs: Count = 60
    patience: Count = 15  # epochs without a lower error on them after which training stops
    batch_size: Count = 2048  # ratings, of all workers together
    learning_rate: Annotated[float, Field(gt=0)] = 6e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2  # of the networks, which else learn single ratings by heart
    workers: Annotated[int, Field(ge=0)] = 0  # processes that train together; 0 trains in the calling process
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    restarts: Annotated[int, Field(ge=0)] = 3  # how often a training continues from its checkpoint after a worker has died
    max_k: Count = 100  # tracks in an answer of the service, at most
