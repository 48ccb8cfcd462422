"""Neural rankers: the batch contract, the fields, the layers, and one file a model."""
