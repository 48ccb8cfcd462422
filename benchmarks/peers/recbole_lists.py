"""BPR, LightGCN and NeuMF of RecBole, by its own loop over an epoch."""

import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from lists import begin, train_until_best

# RecBole 1.2.1 uses names that NumPy 2 and SciPy 1.13 have dropped.
vars(np).update({"bool8": np.bool_, "float_": np.float64, "complex_": np.complex128, "unicode_": np.str_})
scipy.sparse.dok_matrix._update = lambda matrix, values: matrix._dict.update(values)

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402

NAMES = {"bpr": "BPR", "lightgcn": "LightGCN", "neumf": "NeuMF"}
SIZES = {"neumf": {"mf_embedding_size": 64, "mlp_embedding_size": 64, "mlp_hidden_size": [64, 32, 16], "dropout_prob": 0.0}}
PAIRS_AT_ONCE = 2**17


def main() -> None:
    data, settings = begin()
    torch.set_num_threads(settings.threads)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "pairs"
        home.mkdir()
        for part in ("train", "validation"):
            lines = [f"u{user}\ti{item}" for user, item in data.pairs[part]]
            (home / f"pairs.{part}.inter").write_text("\n".join(["user_id:token\titem_id:token", *lines]))
        (home / "pairs.rest.inter").write_text("user_id:token\titem_id:token\n" + lines[0])
        values = {
            "data_path": folder, "benchmark_filename": ["train", "validation", "rest"],
            "load_col": {"inter": ["user_id", "item_id"]},
            "use_gpu": False, "show_progress": False, "seed": settings.seed, "reproducibility": True, "state": "ERROR",
            "embedding_size": settings.size, "learning_rate": 1e-3, "train_batch_size": 2048, "checkpoint_dir": folder,
            "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "dynamic": False, "candidate_num": 0},
        }  # fmt: skip
        config = Config(model=NAMES[settings.model], dataset="pairs", config_dict=values | SIZES.get(settings.model, {}))
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train, _, _ = data_preparation(config, dataset)
        model = get_model(config["model"])(config, train.dataset)
        trainer, epoch = get_trainer(config["MODEL_TYPE"], config["model"])(config, model), iter(range(10**9))

        def train_epoch() -> None:
            model.train()
            trainer._train_epoch(train, next(epoch), show_progress=False)

        known = {name: dataset.field2token_id[name] for name in ("user_id", "item_id")}
        rows = np.array([known["user_id"].get(f"u{user}", 0) for user in range(data.train.shape[0])])
        columns = np.array([known["item_id"].get(f"i{item}", 0) for item in range(data.train.shape[1])])

        @torch.no_grad()
        def scores(users: np.ndarray) -> np.ndarray:
            """An item that RecBole has not read is below all others."""
            model.eval()
            found = np.empty((len(users), data.train.shape[1]), np.float32)
            step = max(1, PAIRS_AT_ONCE // len(columns)) if settings.model == "neumf" else len(users)
            for start in range(0, len(users), step):
                some = torch.from_numpy(rows[users[start : start + step]])
                if settings.model == "neumf":
                    pairs = {
                        "user_id": some.repeat_interleave(len(columns)),
                        "item_id": torch.from_numpy(columns).repeat(len(some)),
                    }
                    values = model.predict(Interaction(pairs)).view(len(some), -1).numpy()
                else:
                    values = model.full_sort_predict(Interaction({"user_id": some})).view(len(some), -1).numpy()[:, columns]
                found[start : start + step] = values
            found[:, columns == 0] = -1e9
            return found

        train_until_best(data, settings, train_epoch, scores)


if __name__ == "__main__":
    main()
