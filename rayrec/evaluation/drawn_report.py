"""What was estimated from drawn places: in words, as a table in Markdown, and as a picture."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from matplotlib.figure import Figure

from rayrec.evaluation.drawn_places import AS_DRAWN, IPS, TRUTH, DrawnPlaces
from rayrec.evaluation.off_policy import Estimate, on_policy

SERVED = "truth, had it served"
MIN_ROWS = 100  # effective rows; below this, an estimate and its interval are not to be trusted
Z = 1.96  # of an interval of 95 %


@dataclass(frozen=True)
class DrawnResult:
    """The clicks of a place: estimates from a log, and the truth if it is known."""

    places: int
    users: int
    matches: int
    estimates: Mapping[str, Estimate]

    @classmethod
    def of(cls, places: DrawnPlaces, served: DrawnPlaces | None = None) -> "DrawnResult":
        """`served` are places for which the other ranker chose itself."""
        found = dict(places.estimates())
        if served is not None:
            found[SERVED] = on_policy(served.log())
        return cls(len(places), len(set(places.users.tolist())), places.matches, found)

    @property
    def is_too_small(self) -> bool:
        return IPS not in self.estimates or self.estimates[IPS].effective_rows < MIN_ROWS

    def facts(self) -> dict[str, Any]:
        """All of it as plain values."""
        estimates = {
            name: asdict(each) | dict(zip(("low", "high"), interval(each), strict=True)) for name, each in self.estimates.items()
        }
        counts = {"places": self.places, "users": self.users, "matches": self.matches}
        return counts | {"too_small": self.is_too_small, "estimates": estimates}

    def in_words(self) -> str:
        said = (
            f"A video was drawn for {self.places:,} places on pages of {self.users:,} users. At {self.matches:,} of them the other "
            "ranker would have shown the same video. Intervals are of 95 %, and a user's places count together."
        )
        if not self.is_too_small:
            return said
        rows = self.estimates[IPS].effective_rows if IPS in self.estimates else 0
        return (
            f"{said} THE OVERLAP IS TOO SMALL: the matches say as much as {rows:.0f} places of equal weight, and an estimate to "
            f"be trusted needs {MIN_ROWS}. Collect more of the log, or explore more places (`selection.explore`)."
        )


def interval(estimate: Estimate) -> tuple[float, float]:
    """The limits within which the mean is with a probability of 95 %, if there are many users."""
    return estimate.value - Z * estimate.error, estimate.value + Z * estimate.error


def table(result: DrawnResult) -> str:
    """A row for each estimate, in Markdown."""
    lines = ["| | clicks of a place | 95 % interval | effective places |", "|---|---|---|---|"]
    for name, each in result.estimates.items():
        low, high = interval(each)
        lines.append(f"| {name} | {each.value:.4f} | {low:.4f} to {high:.4f} | {each.effective_rows:,.0f} |")
    return "\n".join([*lines, "", result.in_words(), ""])


def picture(result: DrawnResult) -> bytes:
    """A PNG with each estimate and its interval."""
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(result.estimates)), layout="constrained")
    axes = figure.subplots()
    for row, (name, each) in enumerate(result.estimates.items()):
        limits = interval(each)
        colour = {AS_DRAWN: "tab:gray", TRUTH: "tab:green", SERVED: "tab:olive"}.get(name, "tab:blue")
        axes.errorbar(each.value, row, xerr=[[each.value - limits[0]], [limits[1] - each.value]], fmt="o", capsize=3, color=colour)
        if name == TRUTH:
            axes.axvline(each.value, color=colour, linewidth=0.8)
    axes.set(xlabel="clicks of a place", yticks=range(len(result.estimates)), yticklabels=list(result.estimates))
    axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return file.getvalue()
