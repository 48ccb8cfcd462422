"""DeepFM and DIN of torch-rechub. Its MLPs normalise every layer, and DIN's has Dice throughout: neither is an option."""

import numpy as np
from common import HISTORY, TARGET, Rows, Settings, Trainee, main, seconds_of
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.ranking import DIN, DeepFM
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator


def build(rows: Rows, settings: Settings) -> Trainee:
    sizes, size = rows.sizes, settings.embedding
    fields = {name: SparseFeature(name, sizes[name], size) for name in rows.fields}
    lists = [SequenceFeature(name, sizes[name], size, pooling="mean", padding_idx=0) for name in rows.lists]
    pooling = "mean" if settings.model == "deepfm" else "concat"
    history = []
    if settings.history:
        history = [SequenceFeature(HISTORY, sizes[TARGET], size, pooling=pooling, shared_with=TARGET, padding_idx=0)]
    mlp = {"dims": list(settings.hidden), "dropout": settings.dropout}
    if settings.model == "deepfm":
        columns = [*fields.values(), *lists, *history]
        model = DeepFM(columns, columns, mlp | {"activation": "relu"})
    else:
        target = fields.pop(TARGET)
        model = DIN([*fields.values(), *lists], history, [target], mlp, {"dims": list(settings.attention)})
    # The loaders that fit() would be given, as the library's own examples make them.
    splits = [part for split in ("validation", "test") for part in (rows.inputs(split), rows.labels(split))]
    generator = DataGenerator(rows.inputs("train"), rows.labels("train"))
    made = generator.generate_dataloader(*splits, batch_size=settings.batch)
    loaders = dict(zip(("train", "validation", "test"), made, strict=True))
    trainer = CTRTrainer(model, optimizer_params={"lr": settings.learning_rate, "weight_decay": settings.weight_decay})
    return Trainee(
        lambda: seconds_of(lambda: trainer.train_one_epoch(loaders["train"])),
        lambda split: np.asarray(trainer.predict(trainer.model, loaders[split])),
    )


if __name__ == "__main__":
    main("torch-rechub", build)
