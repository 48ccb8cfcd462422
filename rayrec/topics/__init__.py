"""Semantic topics of videos: a joint representation of cover, title and tags, clustered (SOURCES C.1-C.3)."""
