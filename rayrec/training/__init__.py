"""The trainer of all models: loop, optimizers, exchange of gradients, callbacks, progress, metrics and trackers."""
