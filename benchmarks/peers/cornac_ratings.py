"""PMF, ConvMF and CDL of cornac, which predict ratings; the latter two read the words of the items.

It runs in an environment of its own, as `python cornac_ratings.py ratings.npz SETTINGS`, and leaves what it predicts for the test
in `predicted.npy` beside the ratings, within the range of those of the training. Pairs of which the model does not know the user or
the item get the mean.
"""

import importlib.metadata
import json
import sys
import time
from pathlib import Path

import numpy as np
from cornac.data import Dataset, TextModality
from cornac.data.text import BaseTokenizer
from cornac.models import CDL, PMF, ConvMF

LENGTH = 24  # words of an item


def main() -> None:
    stored, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    columns = np.load(stored)
    train, test = (
        list(zip(*(columns[f"{part}.{key}"].tolist() for key in ("user", "item", "rating")), strict=True))
        for part in ("train", "test")
    )
    name, seed = settings.pop("model"), settings.pop("seed")
    data = Dataset.from_uir(train, seed=seed)
    if name != "PMF":
        words = columns["words"]
        text = [" ".join(f"w{word}" for word in words[item] if word) or "none" for item in data.iid_map]
        modality = TextModality(
            corpus=text, ids=list(data.iid_map), tokenizer=BaseTokenizer(pre_rules=[]), max_vocab=int(words.max()) + 1
        )
        data.add_modalities(item_text=modality.build(id_map=data.iid_map))
    if name == "PMF":
        model = PMF(seed=seed, **settings)
    elif name == "ConvMF":
        model = ConvMF(max_len=LENGTH, seed=seed, **settings)
    else:
        known = data.item_text.batch_bow(np.arange(1)).shape[1]
        model = CDL(vocab_size=known, autoencoder_structure=[200], verbose=False, seed=seed, **settings)
    begun = time.monotonic()
    model.fit(data)
    seconds = time.monotonic() - begun
    found = [model.rate(data.uid_map.get(user, data.num_users), data.iid_map.get(item, data.num_items)) for user, item, _ in test]
    np.save(stored.with_name("predicted.npy"), np.array(found, dtype=np.float64))
    print(json.dumps({"seconds": seconds, "version": importlib.metadata.version("cornac")}))


if __name__ == "__main__":
    main()
