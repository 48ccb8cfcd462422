"""The learning curves of the private/public network, drawn."""

import io

from matplotlib.figure import Figure

from rayrec.training.callbacks import Epoch


def learning_curves(epochs: list[Epoch]) -> bytes:
    """A PNG of the cross-entropy, the two other terms and the held-out accuracy by epoch."""
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    loss, terms, accuracy = figure.subplots(1, 3)
    numbers = [epoch.epoch for epoch in epochs]
    for axes, names in (
        (loss, ("classification", "held_out_loss")),
        (terms, ("similarity", "difference")),
        (accuracy, ("held_out_accuracy",)),
    ):
        for name in names:
            axes.plot(numbers, [epoch.metrics[name] for epoch in epochs], marker="o", label=name.replace("_", " "))
        axes.set(xlabel="epoch", yscale="log" if axes is terms else "linear")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    return picture.getvalue()
