"""Draws the places of the synthetic world, one function for each, under the names of `words.PLACES`."""

from collections.abc import Callable

import numpy as np

from rayrec.datasets.synthetic.subjects import Pen

Random = np.random.Generator


def beach(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, -0.1, "lightskyblue")
    pen.disc(rng.uniform(-0.8, 0.8), -0.7, 0.16, "gold")
    pen.box(-1, -0.1, 1, 0.45, "mediumturquoise")
    pen.shape(-1, 0.4, 0, 0.25, 1, 0.4, 1, 1, -1, 1, colour="moccasin")


def forest(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, 1, "darkseagreen")
    pen.box(-1, 0.5, 1, 1, "olivedrab")
    for x in rng.uniform(-1, 1, 7):
        pen.box(x - 0.04, 0.2, x + 0.04, 0.6, "saddlebrown")
        pen.shape(x - 0.28, 0.3, x, rng.uniform(-0.95, -0.5), x + 0.28, 0.3, colour="darkgreen")


def garden(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, 0.2, "powderblue")
    for x in np.arange(-0.95, 1, 0.25):
        pen.shape(x, 0.3, x, -0.25, x + 0.08, -0.35, x + 0.16, -0.25, x + 0.16, 0.3, colour="floralwhite")
    pen.box(-1, 0.2, 1, 1, "yellowgreen")
    for x, y in zip(rng.uniform(-1, 1, 12), rng.uniform(0.3, 1, 12), strict=True):
        pen.disc(x, y, 0.05, str(rng.choice(["hotpink", "white", "gold"])))


def kitchen(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, 0.5, "lemonchiffon")
    for line in np.arange(-0.9, 0.5, 0.25):
        pen.line(-1, line, 1, line, width=0.02, colour="burlywood")
    for line in np.arange(-0.875, 1, 0.25):
        pen.line(line, -1, line, 0.5, width=0.02, colour="burlywood")
    x = rng.uniform(-0.8, 0.3)
    pen.box(x, -0.95, x + 0.5, -0.4, "lightblue")
    pen.box(-1, 0.45, 1, 0.6, "sienna")
    pen.box(-1, 0.6, 1, 1, "tan")


def market(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, 1, "wheat")
    for stripe in range(8):
        x = -1 + stripe / 4
        pen.shape(x, -1, x + 0.25, -1, x + 0.25, -0.55, x + 0.125, -0.45, x, -0.55, colour="firebrick" if stripe % 2 else "ivory")
    pen.box(-1, 0.5, 1, 1, "peru")
    for x in np.arange(-0.95, 1, 0.2):
        pen.disc(x, 0.5, 0.11, str(rng.choice(["tomato", "limegreen", "gold", "darkorange"])))


def night(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, 1, "midnightblue")
    pen.disc(rng.uniform(-0.7, 0.7), -0.75, 0.14, "lightyellow")
    for x in np.arange(-1, 1, 0.33):
        top = rng.uniform(-0.5, 0.1)
        pen.box(x, top, x + 0.3, 0.7, "darkslateblue")
        for row in np.arange(top + 0.08, 0.6, 0.16):
            for column in np.flatnonzero(rng.uniform(size=3) < 0.5):
                pen.box(x + 0.05 + column * 0.08, row, x + 0.1 + column * 0.08, row + 0.08, "khaki")
    pen.box(-1, 0.7, 1, 1, "darkslategray")


def sea(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, 1, "steelblue")
    pen.box(-1, -1, 1, -0.5, "lightcyan")
    for y in np.arange(-0.5, 1, 0.3):
        shift = rng.uniform(0, 0.4)
        for x in np.arange(-1.4, 1.2, 0.4):
            pen.bow(x + shift, y - 0.12, x + shift + 0.4, y + 0.12, 180, 360, 0.05, "lightskyblue")


def snow(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, 1, "lightsteelblue")
    pen.oval(-1.6, 0.2, 0.6, 1.8, "white")
    pen.oval(-0.4, rng.uniform(0.25, 0.45), 1.8, 1.8, "aliceblue")
    for x, y in zip(rng.uniform(-1, 1, 40), rng.uniform(-1, 1, 40), strict=True):
        pen.disc(x, y, 0.025, "white")


def stadium(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, 1, "slategray")
    for y in np.arange(-0.9, 0, 0.15):
        for x in np.arange(-0.95, 1, 0.15):
            pen.disc(x, y, 0.05, str(rng.choice(["tomato", "gold", "royalblue", "white"])))
    pen.box(-1, 0.05, 1, 0.2, "white")
    for stripe in range(4):
        pen.box(-1, 0.2 + stripe * 0.2, 1, 0.4 + stripe * 0.2, "forestgreen" if stripe % 2 else "limegreen")


def stage(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, 1, "indigo")
    for x in np.arange(-1, 1, 0.4):
        pen.box(x, -1, x + 0.2, 0.5, "darkred")
    for x in rng.uniform(-0.8, 0.8, 2):
        pen.shape(x, -1, x - 0.35, 0.6, x + 0.35, 0.6, colour="orchid")
    pen.box(-1, 0.5, 1, 1, "sienna")


def street(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, 1, "lightblue")
    for x in np.arange(-1, 1, 0.5):
        top = rng.uniform(-0.8, -0.2)
        pen.box(x, top, x + 0.48, 0.5, str(rng.choice(["rosybrown", "darksalmon", "thistle", "tan"])))
        for row in np.arange(top + 0.12, 0.3, 0.3):
            pen.box(x + 0.08, row, x + 0.18, row + 0.15, "aliceblue")
            pen.box(x + 0.3, row, x + 0.4, row + 0.15, "aliceblue")
    pen.box(-1, 0.5, 1, 1, "dimgray")
    for x in np.arange(-0.9, 1, 0.5):
        pen.box(x, 0.72, x + 0.25, 0.78, "white")


def studio(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, 1, "mistyrose")
    pen.box(-1, 0.5, 1, 1, "rosybrown")
    x = rng.uniform(-0.8, 0.2)
    pen.box(x, -0.8, x + 0.6, -0.2, "white")
    pen.box(x + 0.05, -0.75, x + 0.55, -0.25, "cadetblue")
    pen.line(-1, 0.5, 1, 0.5, width=0.04, colour="sienna")


def workshop(pen: Pen, rng: Random) -> None:
    pen.box(-1, -1, 1, 1, "darkkhaki")
    for y in np.arange(-0.9, 0.4, 0.2):
        for x in np.arange(-0.9, 1, 0.2):
            pen.disc(x, y, 0.02, "olive")
    for x in rng.uniform(-0.9, 0.9, 3):
        pen.line(x, -0.8, x, -0.35, width=0.06, colour="brown")
        pen.box(x - 0.1, -0.85, x + 0.1, -0.72, "slategray")
    pen.box(-1, 0.5, 1, 1, "saddlebrown")


BACKDROPS: dict[str, Callable[[Pen, Random], None]] = {
    draw.__name__: draw
    for draw in (beach, forest, garden, kitchen, market, night, sea, snow, stadium, stage, street, studio, workshop)
}
