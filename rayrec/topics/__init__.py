"""Semantic topics of videos: clusters of a joint representation of cover, title and tags, after Pu et al., "Multimodal Topic
Learning for Video Recommendation".
"""
