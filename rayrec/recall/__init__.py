"""Recall: turns the clicks of a user into candidates for the ranker, and scored candidates into a page. It does no I/O."""
