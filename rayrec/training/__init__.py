"""Training rankers: the loop and the metrics in pure torch, Ray Train around them."""
