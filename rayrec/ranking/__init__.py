"""Neural rankers: embedding, layers, one file for each model, and the scorer that evaluation and serving share."""
