"""What the dashboard says of experiments. The fields are those of `rollout.experiment_status`, from whose objects they are made."""

import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

COMPARED = {
    "metric": "clicks per user",
    "value": 2.31,
    "gain": 0.042,
    "low": 0.011,
    "high": 0.074,
    "p_value": 0.004,
    "detectable": 0.045,
    "detectable_planned": 0.031,
}
ARM = {
    "arm": "more",
    "share": 0.1,
    "users": 5012,
    "impressions": 210000,
    "clicks": 11578,
    "watch_s": 98000.5,
    "metrics": [COMPARED],
}


def said(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(from_attributes=True, json_schema_extra={"examples": [example]})


class MetricCompared(BaseModel):
    model_config = said(COMPARED)

    metric: str
    value: float | None = Field(description="null without users or impressions")
    gain: float | None = Field(description="relative to the control: 0.01 is 1 % more; null while nothing can be said")
    low: float | None = Field(
        description="lower limit of the gain, that of a 95 % confidence sequence: it may be looked at any time"
    )
    high: float | None = Field(description="upper limit of the gain")
    p_value: float | None = Field(description="of no gain, valid at any time")
    detectable: float | None = Field(description="the gain that is found with a probability of 80 % with the users so far")
    detectable_planned: float | None = Field(description="likewise with the planned users")


class ExperimentArm(BaseModel):
    model_config = said(ARM)

    arm: str
    share: float = Field(description="of all users")
    users: int = Field(description="that were shown something")
    impressions: int
    clicks: int
    watch_s: float
    metrics: list[MetricCompared]


class ExperimentNumbers(BaseModel):
    model_config = said(
        {
            "name": "fresh",
            "running": True,
            "until": "2026-12-24",
            "arms": [ARM],
            "several": 0,
            "mismatch_p_value": 1.0,
            "mismatch": False,
        }
    )

    name: str
    running: bool
    until: datetime.date | None
    arms: list[ExperimentArm] = Field(description="the control first")
    several: int = Field(description="users who were in several arms, because the config has changed; they are left out")
    mismatch_p_value: float = Field(description="that the arms have their shares of the users, valid at any time")
    mismatch: bool = Field(description="whether they do not, so that no gain means anything")
