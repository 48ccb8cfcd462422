"""Who liked what: models that learn from clicks or ratings, most of them without looking at a video. Nothing here knows Ray."""
