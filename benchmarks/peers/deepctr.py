"""Models of deepctr-torch. Its DIEN reads no multi-valued field, so it does not see the genres."""

import time

import numpy as np
import requests
from common import HISTORY, HISTORY_LENGTH, TARGET, Rows, Settings, Trainee, main


def _offline(*_: object) -> None:
    raise ConnectionError("a benchmark asks nobody")


requests.get = _offline  # deepctr_torch asks PyPI for its newest version when it is imported

from deepctr_torch.callbacks import Callback  # noqa: E402
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat  # noqa: E402
from deepctr_torch.models import AFM, DCN, DIEN, DIN, WDL, AutoInt, DeepFM  # noqa: E402
from torch.optim import Adam  # noqa: E402

CROSS_LAYERS = 3  # as ours


class Stopwatch(Callback):
    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.seconds = time.perf_counter() - self.started


def build(rows: Rows, settings: Settings) -> Trainee:
    def sparse(name: str, field: str) -> SparseFeat:
        return SparseFeat(name, rows.sizes[field], settings.embedding, embedding_name=field)

    fields = [sparse(name, name) for name in rows.fields]
    lists = [VarLenSparseFeat(sparse(name, name), most) for name, most in rows.lists.items()]
    clicked = f"hist_{TARGET}"  # the name it must have
    history = [VarLenSparseFeat(sparse(clicked, TARGET), settings.history, length_name=HISTORY_LENGTH)] if settings.history else []
    columns = [*fields, *lists, *history]
    common = {"l2_reg_embedding": 0, "seed": settings.seed}
    linear = common | {"l2_reg_linear": 0}
    deep = {"dnn_hidden_units": settings.hidden, "dnn_dropout": settings.dropout}
    attention, attended = settings.attention, {"attention_factor": settings.embedding, "afm_dropout": settings.dropout}
    cross = {"cross_num": CROSS_LAYERS, "l2_reg_cross": 0}
    model = {
        "fm": lambda: DeepFM(columns, columns, dnn_hidden_units=(), **linear),
        "deepfm": lambda: DeepFM(columns, columns, **deep, **linear),
        "wide_deep": lambda: WDL(columns, columns, **deep, **linear),
        "afm": lambda: AFM(columns, columns, l2_reg_att=0, **attended, **linear),
        "dcn": lambda: DCN(columns, columns, **cross, **deep, **linear),
        "dcn_v2": lambda: DCN(columns, columns, cross_parameterization="matrix", **cross, **deep, **linear),
        "autoint": lambda: AutoInt(columns, columns, **deep, **common),
        "din": lambda: DIN(columns, [TARGET], att_hidden_size=attention, **deep, **common),
        "dien": lambda: DIEN([*fields, *history], [TARGET], gru_type="AUGRU", att_hidden_units=attention, **deep, **common),
    }[settings.model]()
    decay = settings.weight_decay * settings.batch  # its loss is a batch's sum
    model.compile(Adam(model.parameters(), lr=settings.learning_rate, weight_decay=decay), "binary_crossentropy")

    def inputs(split: str) -> dict[str, np.ndarray]:
        columns = rows.inputs(split, np.float32)
        return columns | ({clicked: columns[HISTORY]} if settings.history else {})

    train, stopwatch = inputs("train"), Stopwatch()

    def train_epoch() -> float:
        model.fit(dict(train), rows.labels("train"), settings.batch, epochs=1, verbose=0, callbacks=[stopwatch])
        return stopwatch.seconds

    return Trainee(train_epoch, lambda split: model.predict(inputs(split), 8192)[:, 0])


if __name__ == "__main__":
    main("deepctr-torch", build)
