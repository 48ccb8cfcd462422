"""What the API answers about music."""

from pydantic import BaseModel, Field

from rayrec.serving.http.bodies import example

TRACK = {
    "track_id": "t12",
    "title": "Slow rain",
    "artist": "The Umbrellas",
    "score": 3.28,
    "fit": 0.8,
    "rating": 4.1,
    "file": "/v1/tracks/t12/file",
}


class Track(BaseModel):
    model_config = example(**TRACK)

    track_id: str
    title: str | None = None
    artist: str | None = None
    score: float = Field(description="fit times rating; the rating alone if nothing is known of where the video is")
    fit: float | None = Field(
        description="how well the sound goes with the video, from 0 to 1; null if it is not known, and counts as the mean then"
    )
    rating: float = Field(description="the rating that the user is predicted to give the track")
    file: str | None = Field(default=None, description="path of the sound file")


class MusicAnswer(BaseModel):
    model_config = example(bundle="20261121-101500-3f2a", tracks=[TRACK])

    bundle: str = Field(description="version of the bundle that answered")
    tracks: list[Track] = Field(description="the highest score first")
