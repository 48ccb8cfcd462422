"""What an A/B test found: as a table in Markdown, as a picture, and as a page."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from rayrec.config import ABTest
from rayrec.evaluation.ab_test import MEASURES, gains_of, measured
from rayrec.evaluation.experiments.gains import Gain
from rayrec.evaluation.experiments.moments import Moments
from rayrec.evaluation.plotting import plain

MEANINGS = {
    "UVD": "seconds watched by all, for each person of the group",
    "UAVD": "seconds watched by each person who came",
    "AVD": "seconds watched of each video that was clicked",
    "ART": "pages of each person who came",
}
PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>A/B test</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left }
img { max-width: 100% } .gain { font-weight: 600 } .up { color: #0a6b2d } .down { color: #a3211b }
</style></head><body>
<h1>A/B test on {{ "{:,}".format(result.people) }} simulated people</h1>
<p>{{ result.in_words() }}</p>
<img src="data:image/png;base64,{{ picture }}" alt="The gain of each arm in each measure, with its interval">
<h2>Gains over {{ result.arms[0] }}</h2>
<table><tr><th>arm</th>{% for name in measures %}<th title="{{ measures[name] }}">{{ name }}</th>{% endfor %}</tr>
{% for arm in result.arms[1:] %}<tr><td>{{ arm }}</td>{% for name in measures %}{% set cell = result.cell(arm, name) %}
<td><span class="gain {{ cell.tone }}">{{ cell.gain }}</span><br>{{ cell.interval }}</td>{% endfor %}</tr>{% endfor %}</table>
<dl>{% for name, meaning in measures.items() %}<dt><b>{{ name }}</b></dt><dd>{{ meaning }}</dd>{% endfor %}</dl>
<h2>The groups in the first week</h2>
<table><tr><th>group</th>{% for name in measures %}<th>{{ name }}</th>{% endfor %}<th>people</th></tr>
{% for row in result.groups() %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>
</body></html>
""",
    autoescape=True,
)


@dataclass(frozen=True)
class Cell:
    """A gain as the page shows it."""

    gain: str
    interval: str
    tone: str  # "up" or "down" where the interval leaves no doubt, else ""


@dataclass(frozen=True)
class ABResult:
    """What was found of each arm, the control first."""

    people: int
    days: int
    arms: list[str]
    chosen: tuple[int, ...]  # the group of each arm
    before: list[Moments]  # of all groups, in the first week
    values: list[dict[str, float]]  # of each arm, in the second week
    gains: list[dict[str, Gain]]  # of each arm but the control, adjusted by what the people did before
    unadjusted: list[dict[str, Gain]]

    @classmethod
    def of(cls, settings: ABTest, chosen: tuple[int, ...], before: list[Moments], after: list[Moments]) -> "ABResult":
        control, *others = after
        gains, unadjusted = ([gains_of(control, other, adjusted) for other in others] for adjusted in (True, False))
        values = [measured(each) for each in after]
        return cls(settings.people, settings.days, list(settings.arms), chosen, before, values, gains, unadjusted)

    def facts(self) -> dict[str, Any]:
        """All of it as plain values."""

        def plain_gain(found: Gain) -> dict[str, float]:
            low, high = found.interval()
            return {"gain": float(found.relative), "low": float(low), "high": float(high), "p_value": float(found.p_value)}

        return {
            "people": self.people,
            "days": self.days,
            "chosen_groups": [group + 1 for group in self.chosen],
            "first_week": [measured(group) for group in self.before],
            "second_week": dict(zip(self.arms, self.values, strict=True)),
            **{
                name: {arm: {m: plain_gain(g) for m, g in each.items()} for arm, each in zip(self.arms[1:], found, strict=True)}
                for name, found in (("gains", self.gains), ("gains_without_cuped", self.unadjusted))
            },
        }

    def in_words(self) -> str:
        groups = ", ".join(f"{arm}: group {group + 1}" for arm, group in zip(self.arms, self.chosen, strict=True))
        return (
            f"The people are in {len(self.before)} equal groups. For {self.days} days all of them had the arm {self.arms[0]}. The "
            f"groups that were most alike then had an arm each for {self.days} days ({groups}). Intervals are of 95 % and adjusted "
            "by what each person did before (CUPED)."
        )

    def cell(self, arm: str, measure: str) -> Cell:
        found = self.gains[self.arms.index(arm) - 1][measure]
        low, high = (float(limit) for limit in found.interval())
        tone = "up" if low > 0 else "down" if high < 0 else ""
        return Cell(f"{found.relative:+.2%}", f"{low:+.2%} to {high:+.2%}", tone)

    def groups(self) -> list[list[str]]:
        """A row for each group: its number, with the arm that it got, its measures and its people."""
        of = dict(zip(self.chosen, self.arms, strict=True))
        return [
            [f"{number + 1}{f' ({of[number]})' if number in of else ''}", *_values(measured(group)), f"{int(group.count):,}"]
            for number, group in enumerate(self.before)
        ]


def table(result: ABResult) -> str:
    """A table in Markdown: the gain of each arm in each measure with its interval, and the control's values."""
    lines = [f"| | {' | '.join(MEASURES)} |", f"|---|{'---|' * len(MEASURES)}"]
    lines.append(f"| {result.arms[0]} (control) | {' | '.join(_values(result.values[0]))} |")
    for arm in result.arms[1:]:
        cells = [result.cell(arm, name) for name in MEASURES]
        lines.append(f"| {arm} | {' | '.join(f'{cell.gain} ({cell.interval})' for cell in cells)} |")
    return "\n".join([*lines, "", result.in_words(), ""])


def picture(result: ABResult) -> bytes:
    """A PNG with a panel for each measure: the gain of each arm, with its interval, adjusted and not."""
    figure = Figure(figsize=(11, 1.2 + 0.7 * len(result.gains)), layout="constrained")
    height = np.arange(len(result.gains))
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(MEASURES), sharey=True)), MEASURES, strict=True):
        for found, shift, label in ((result.gains, -0.12, "adjusted (CUPED)"), (result.unadjusted, 0.12, "not adjusted")):
            middle = np.array([100 * float(each[name].relative) for each in found])
            limits = 100 * np.array([[float(limit) for limit in each[name].interval()] for each in found]).T
            error = np.abs(limits - middle)
            axes.errorbar(middle, height + shift, xerr=error, fmt="o", capsize=3, label=label)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=name, xlabel="gain, %", yticks=height, yticklabels=[plain(arm) for arm in result.arms[1:]])
        axes.grid(axis="x", alpha=0.3)
        axes.margins(y=0.3)
    axes.invert_yaxis()
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return file.getvalue()


def page(result: ABResult) -> str:
    """The report as one HTML file."""
    return PAGE.render(result=result, measures=MEANINGS, picture=base64.b64encode(picture(result)).decode())


def _values(values: dict[str, float]) -> list[str]:
    return [f"{value:.2f}" for value in values.values()]
