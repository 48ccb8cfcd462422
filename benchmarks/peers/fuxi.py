"""DeepFM and DIN of FuxiCTR. Its wheel has the layers, the loop and the loader, but of the two models only a DIN for very long
histories with a loader of its own, so both models are put together here from its layers, as its model zoo does."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import HISTORY, TARGET, Rows, Settings, Trainee, main, seconds_of
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.layers import DIN_Attention, FactorizationMachine, FeatureEmbeddingDict, MLP_Block
from fuxictr.pytorch.models import BaseModel


class _Model(BaseModel):
    def __init__(self, features: FeatureMap, settings: Settings, folder: str) -> None:
        super().__init__(features, model_id=settings.model, model_root=folder, verbose=0, metrics=["AUC"])
        self.embedding_layer = FeatureEmbeddingDict(features, settings.embedding)
        self.mlp = MLP_Block(features.sum_emb_out_dim(), list(settings.hidden), output_dim=1, dropout_rates=settings.dropout)

    def probability(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y_pred": self.output_activation(logits)}


class DeepFM(_Model):
    def __init__(self, features: FeatureMap, settings: Settings, folder: str) -> None:
        super().__init__(features, settings, folder)
        self.fm = FactorizationMachine(features)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        # FuxiCTR begins no shared embedding anew, and its linear term, which shares none, leaves this one at N(0, 1).
        weights = self.fm.lr_layer.embedding_layer.embedding_layer.embedding_layers
        if HISTORY in weights:
            torch.nn.init.normal_(weights[HISTORY].weight, std=1e-4)

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        values = self.get_inputs(inputs)
        fields_BFD = self.embedding_layer.dict2tensor(self.embedding_layer(values))
        return self.probability(self.fm(values, fields_BFD) + self.mlp(fields_BFD.flatten(1)))


class DIN(_Model):
    def __init__(self, features: FeatureMap, settings: Settings, folder: str) -> None:
        super().__init__(features, settings, folder)
        self.attention = DIN_Attention(settings.embedding, list(settings.attention), "Dice")

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        values = self.get_inputs(inputs)
        fields = self.embedding_layer(values)
        fields[HISTORY] = self.attention(fields[TARGET], fields[HISTORY], values[HISTORY] != 0)
        return self.probability(self.mlp(self.embedding_layer.dict2tensor(fields, flatten_emb=True)))


def feature_map(rows: Rows, settings: Settings) -> FeatureMap:
    features = FeatureMap("rows", ".")
    features.default_emb_dim, features.labels = settings.embedding, ["label"]
    for name in rows.fields:
        features.features[name] = {"type": "categorical", "vocab_size": rows.sizes[name], "padding_idx": 0}
    mean = {"feature_encoder": "layers.MaskedAveragePooling()", "type": "sequence", "padding_idx": 0}
    for name, most in rows.lists.items():
        features.features[name] = mean | {"vocab_size": rows.sizes[name], "max_len": most}
    if settings.history:
        clicked = mean | {"vocab_size": rows.sizes[TARGET], "max_len": settings.history, "share_embedding": TARGET}
        features.features[HISTORY] = clicked | ({"feature_encoder": None} if settings.model == "din" else {})
    features.num_fields = features.get_num_fields()
    features.set_column_index()
    return features


def build(rows: Rows, settings: Settings) -> Trainee:
    folder = tempfile.TemporaryDirectory()
    features = feature_map(rows, settings)

    def loader(split: str) -> NpzDataLoader:
        path = Path(folder.name) / f"{split}.npz"
        np.savez(path, **{name: rows.columns[split][name] for name in [*features.features, "label"]})
        # No loader process (the default is one): both cores are for the training threads. What one would give was not measured.
        return NpzDataLoader(features, str(path), settings.batch, shuffle=split == "train", num_workers=0)

    loaders = {split: loader(split) for split in rows.columns}
    model = {"deepfm": DeepFM, "din": DIN}[settings.model](features, settings, folder.name)
    model.compile("adam", "binary_crossentropy", settings.learning_rate)
    model.optimizer.param_groups[0]["weight_decay"] = settings.weight_decay
    model.reset_parameters()
    # What fit() sets before it calls train_epoch(); evaluation is left to us, between the epochs.
    model._max_gradient_norm, model._eval_steps, model._total_steps, model._stop_training = 10.0, 10**9, 0, False

    @torch.no_grad()
    def predict(split: str) -> np.ndarray:
        model.eval()
        return torch.cat([model(batch)["y_pred"] for batch in loaders[split]])[:, 0].numpy()

    return Trainee(lambda: seconds_of(lambda: model.train_epoch(loaders["train"])), predict)


if __name__ == "__main__":
    main("fuxictr", build)
