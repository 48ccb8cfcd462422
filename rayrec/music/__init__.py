"""Ratings of tracks: matrix factorisation whose priors are learned from what users and tracks are. Nothing here knows Ray."""
