"""Draws the things that the topics of the synthetic world are about, one function for each, in the order of `words.TOPICS`."""

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

FINER = 2  # times that a picture is drawn larger, so that its edges are smooth

Colour = tuple[int, int, int]


class Pen:
    """Draws in a square whose coordinates are -1..1, to the right and down.

    Colours are `main`, the colour of the thing, its shades `dark` and `light`, or any that Pillow knows by name.
    """

    def __init__(self, side: int, main: Colour, background: str | None = None) -> None:
        self.side = side * FINER
        self.image = Image.new("RGBA", (self.side, self.side), background or (0, 0, 0, 0))
        self.canvas = ImageDraw.Draw(self.image)
        self.shades = {"main": main, "dark": shade(main, 0.55), "light": shade(main, 1.5)}

    def drawn(self) -> Image.Image:
        return self.image.reduce(FINER)

    def oval(self, left: float, top: float, right: float, bottom: float, colour: str = "main") -> None:
        self.canvas.ellipse(self._points(left, top, right, bottom), self._colour(colour))

    def disc(self, x: float, y: float, radius: float, colour: str = "main") -> None:
        self.oval(x - radius, y - radius, x + radius, y + radius, colour)

    def ring(self, x: float, y: float, radius: float, width: float, colour: str = "main") -> None:
        box = self._points(x - radius, y - radius, x + radius, y + radius)
        self.canvas.ellipse(box, outline=self._colour(colour), width=self._width(width))

    def box(self, left: float, top: float, right: float, bottom: float, colour: str = "main") -> None:
        self.canvas.rectangle(self._points(left, top, right, bottom), self._colour(colour))

    def shape(self, *points: float, colour: str = "main") -> None:
        """A polygon of x, y, x, y, ..."""
        self.canvas.polygon(self._points(*points), self._colour(colour))

    def line(self, *points: float, width: float = 0.08, colour: str = "black") -> None:
        self.canvas.line(self._points(*points), self._colour(colour), self._width(width), "curve")

    def bow(self, left: float, top: float, right: float, bottom: float, start: int, end: int, width: float, colour: str) -> None:
        """A part of the outline of an oval, from one angle to another in degrees, clockwise from the right."""
        self.canvas.arc(self._points(left, top, right, bottom), start, end, self._colour(colour), self._width(width))

    def half(self, left: float, top: float, right: float, bottom: float, start: int, end: int, colour: str = "main") -> None:
        """An oval cut by a line between two angles, as those of `bow`."""
        self.canvas.chord(self._points(left, top, right, bottom), start, end, self._colour(colour))

    def _points(self, *numbers: float) -> Sequence[float]:
        return [(number + 1) / 2 * self.side for number in numbers]

    def _width(self, width: float) -> int:
        return max(1, round(width / 2 * self.side))

    def _colour(self, name: str) -> Colour | str:
        return self.shades.get(name, name)


def shade(colour: Colour, brightness: float) -> Colour:
    """A darker colour, or one nearer to white for a brightness above 1."""
    if brightness <= 1:
        return tuple(round(part * brightness) for part in colour)  # type: ignore[return-value]
    return tuple(round(255 - (255 - part) / brightness) for part in colour)  # type: ignore[return-value]


def bread(pen: Pen) -> None:
    pen.oval(-0.95, -0.45, 0.95, 0.65, "dark")
    pen.oval(-0.95, -0.5, 0.95, 0.55)
    for x in (-0.5, 0, 0.5):
        pen.line(x - 0.15, 0.2, x + 0.15, -0.3, width=0.1, colour="light")


def cake(pen: Pen) -> None:
    for top, half, colour in ((0.35, 0.9, "main"), (-0.1, 0.65, "light"), (-0.5, 0.4, "main")):
        pen.box(-half, top, half, top + 0.45, colour)
        pen.box(-half, top, half, top + 0.12, "ivory")
    pen.disc(0, -0.6, 0.14, "crimson")
    pen.oval(-1, 0.75, 1, 0.95, "silver")


def noodles(pen: Pen) -> None:
    for x in range(-6, 7, 2):
        pen.bow(x / 10 - 0.25, -0.45, x / 10 + 0.25, 0.35, 180, 360, 0.08, "khaki")
    pen.line(-0.2, 0, 0.7, -0.95, width=0.07, colour="sienna")
    pen.line(0, 0, 0.95, -0.8, width=0.07, colour="sienna")
    pen.half(-0.9, -0.75, 0.9, 0.85, 0, 180)
    pen.box(-0.95, 0, 0.95, 0.12, "dark")
    pen.box(-0.4, 0.75, 0.4, 0.92, "dark")


def grill(pen: Pen) -> None:
    for x in (-0.5, 0, 0.5):
        pen.shape(x - 0.2, 0, x, -0.7, x + 0.2, 0, colour="orangered")
        pen.shape(x - 0.1, 0, x, -0.4, x + 0.1, 0, colour="gold")
    pen.line(-0.5, 0.3, -0.75, 1, width=0.1)
    pen.line(0.5, 0.3, 0.75, 1, width=0.1)
    pen.half(-0.9, -0.6, 0.9, 0.65, 0, 180)
    pen.box(-1, -0.05, 1, 0.08, "dimgray")
    pen.oval(-0.5, -0.2, 0.1, 0, "saddlebrown")


def football(pen: Pen) -> None:
    pen.disc(0, 0, 0.95, "black")
    pen.disc(0, 0, 0.89)
    pen.shape(0, -0.35, 0.33, -0.1, 0.2, 0.28, -0.2, 0.28, -0.33, -0.1, colour="black")
    for points in ((0, -0.35, 0, -0.9), (0.33, -0.1, 0.85, -0.3), (0.2, 0.28, 0.5, 0.75), (-0.2, 0.28, -0.5, 0.75)):
        pen.line(*points, width=0.06)
    pen.line(-0.33, -0.1, -0.85, -0.3, width=0.06)


def tennis(pen: Pen) -> None:
    pen.line(0.1, 0.2, 0.7, 0.95, width=0.16, colour="dark")
    pen.oval(-0.7, -0.95, 0.4, 0.4, "whitesmoke")
    for step in (-0.4, -0.15, 0.1):
        pen.line(step, -0.85, step, 0.3, width=0.02, colour="gray")
        pen.line(-0.65, step - 0.15, 0.35, step - 0.15, width=0.02, colour="gray")
    pen.bow(-0.75, -1, 0.45, 0.45, 0, 360, 0.12, "main")
    pen.disc(0.7, -0.5, 0.2, "greenyellow")


def surfing(pen: Pen) -> None:
    pen.oval(-0.3, -0.98, 0.3, 0.8)
    pen.line(0, -0.95, 0, 0.75, width=0.06, colour="light")
    pen.bow(-0.3, -0.98, 0.3, 0.8, 0, 360, 0.05, "dark")
    pen.half(-1, 0.2, 0, 1.2, 180, 360, "steelblue")
    pen.half(-0.3, 0.35, 1, 1.3, 180, 360, "deepskyblue")
    pen.bow(-0.3, 0.35, 1, 1.3, 190, 350, 0.07, "white")


def skateboard(pen: Pen) -> None:
    for x in (-0.5, 0.5):
        pen.box(x - 0.08, 0.05, x + 0.08, 0.3, "gray")
        pen.disc(x, 0.4, 0.22, "ivory")
        pen.disc(x, 0.4, 0.08)
    pen.line(-0.98, -0.25, -0.75, 0, 0.75, 0, 0.98, -0.25, width=0.2, colour="main")
    pen.line(-0.7, -0.06, 0.7, -0.06, width=0.05, colour="light")


def dog(pen: Pen) -> None:
    pen.oval(-0.75, -0.7, 0.75, 0.85)
    pen.oval(-0.95, -0.8, -0.45, 0.35, "dark")
    pen.oval(0.45, -0.8, 0.95, 0.35, "dark")
    pen.oval(-0.4, 0.05, 0.4, 0.75, "light")
    pen.oval(-0.15, 0.45, 0.15, 0.95, "hotpink")
    pen.oval(-0.18, 0.1, 0.18, 0.35, "black")
    for x in (-0.3, 0.3):
        pen.disc(x, -0.2, 0.13, "white")
        pen.disc(x, -0.18, 0.08, "black")


def cat(pen: Pen) -> None:
    pen.shape(-0.75, -0.95, -0.7, 0.1, -0.1, -0.4)
    pen.shape(0.75, -0.95, 0.7, 0.1, 0.1, -0.4)
    pen.oval(-0.8, -0.55, 0.8, 0.8)
    for x in (-0.35, 0.35):
        pen.oval(x - 0.16, -0.2, x + 0.16, 0.12, "yellowgreen")
        pen.oval(x - 0.05, -0.2, x + 0.05, 0.12, "black")
        for y in (0.2, 0.35, 0.5):
            pen.line(x, 0.32, 2.8 * x, y, width=0.025, colour="dark")
    pen.shape(-0.1, 0.2, 0.1, 0.2, 0, 0.35, colour="deeppink")
    pen.bow(-0.2, 0.3, 0.2, 0.55, 20, 160, 0.04, "black")


def owl(pen: Pen) -> None:
    pen.shape(-0.65, -0.95, -0.6, -0.3, -0.1, -0.6)
    pen.shape(0.65, -0.95, 0.6, -0.3, 0.1, -0.6)
    pen.oval(-0.7, -0.8, 0.7, 0.9)
    pen.oval(-0.4, 0, 0.4, 0.85, "light")
    pen.oval(-0.9, -0.2, -0.45, 0.75, "dark")
    pen.oval(0.45, -0.2, 0.9, 0.75, "dark")
    for x in (-0.3, 0.3):
        pen.disc(x, -0.35, 0.28, "ivory")
        pen.disc(x, -0.35, 0.14, "black")
    pen.shape(-0.12, -0.2, 0.12, -0.2, 0, 0.1, colour="darkorange")


def whale(pen: Pen) -> None:
    pen.shape(0.5, 0, 0.95, -0.65, 0.9, 0, 1, 0.15, 0.6, 0.3)
    pen.oval(-0.95, -0.35, 0.75, 0.65)
    pen.half(-0.9, -0.3, 0.6, 0.62, 20, 160, "light")
    pen.shape(-0.1, 0.4, 0.25, 0.9, 0.25, 0.4, colour="dark")
    pen.disc(-0.6, 0.05, 0.06, "black")
    pen.bow(-0.55, -0.9, -0.2, -0.3, 180, 360, 0.06, "azure")
    pen.bow(-0.2, -0.9, 0.15, -0.3, 180, 360, 0.06, "azure")


def guitar(pen: Pen) -> None:
    pen.line(0.1, -0.1, 0.85, -0.85, width=0.14, colour="saddlebrown")
    pen.line(0.78, -0.78, 0.95, -0.95, width=0.22, colour="black")
    pen.disc(0, 0, 0.42)
    pen.disc(-0.38, 0.38, 0.55)
    pen.disc(-0.1, 0.1, 0.2, "black")
    pen.line(-0.55, 0.4, -0.4, 0.55, width=0.1, colour="dark")
    pen.line(-0.47, 0.47, 0.85, -0.85, width=0.03, colour="ivory")


def violin(pen: Pen) -> None:
    pen.box(-0.07, -1, 0.07, 0, "black")
    pen.disc(0, -0.15, 0.33)
    pen.disc(0, 0.5, 0.45)
    pen.box(-0.22, -0.1, 0.22, 0.4)
    pen.bow(-0.55, 0.02, -0.2, 0.3, 270, 90, 0.08, "light")
    pen.bow(0.2, 0.02, 0.55, 0.3, 90, 270, 0.08, "light")
    pen.box(-0.15, 0.4, 0.15, 0.46, "black")
    pen.line(0, -0.9, 0, 0.8, width=0.03, colour="ivory")
    pen.line(-0.95, 0.55, 0.95, -0.1, width=0.05, colour="sienna")


def drums(pen: Pen) -> None:
    pen.line(-0.75, -0.55, -0.75, 0.9, width=0.04)
    pen.line(0.75, -0.55, 0.75, 0.9, width=0.04)
    pen.oval(-1, -0.65, -0.45, -0.5, "gold")
    pen.oval(0.45, -0.65, 1, -0.5, "gold")
    for x in (-0.35, 0.35):
        pen.box(x - 0.25, -0.45, x + 0.25, -0.05)
        pen.oval(x - 0.25, -0.53, x + 0.25, -0.37, "white")
    pen.disc(0, 0.45, 0.52)
    pen.disc(0, 0.45, 0.42, "whitesmoke")
    pen.disc(0, 0.45, 0.12)


def synth(pen: Pen) -> None:
    pen.box(-1, -0.5, 1, 0.55)
    pen.box(-0.9, 0, 0.9, 0.48, "ivory")
    for key in range(-4, 5):
        pen.line(key * 0.2, 0, key * 0.2, 0.48, width=0.02)
        if key % 3:
            pen.box(key * 0.2 - 0.06, 0, key * 0.2 + 0.06, 0.28, "black")
    for knob in range(-3, 4):
        pen.disc(knob * 0.25, -0.25, 0.08, "light" if knob % 2 else "orangered")


def lantern(pen: Pen) -> None:
    pen.line(0, -1, 0, -0.6, width=0.04)
    pen.box(-0.25, -0.72, 0.25, -0.58, "gold")
    pen.oval(-0.7, -0.6, 0.7, 0.55)
    for half, colour in ((0.45, "dark"), (0.4, "main"), (0.2, "dark"), (0.15, "light")):
        pen.oval(-half, -0.6, half, 0.55, colour)
    pen.box(-0.25, 0.5, 0.25, 0.63, "gold")
    for x in (-0.12, 0, 0.12):
        pen.line(x, 0.6, x, 0.98, width=0.04, colour="gold")


def train(pen: Pen) -> None:
    pen.box(-0.95, -0.3, 0.4, 0.45)
    pen.box(0.3, -0.7, 0.95, 0.45, "dark")
    pen.box(0.42, -0.5, 0.82, -0.1, "lightcyan")
    pen.shape(-0.85, -0.3, -0.95, -0.7, -0.5, -0.7, -0.6, -0.3, colour="black")
    pen.oval(-0.75, -1, -0.3, -0.72, "gainsboro")
    pen.box(-0.95, 0.1, 0.95, 0.2, "gold")
    for x in (-0.65, -0.1, 0.5):
        pen.disc(x, 0.55, 0.28, "black")
        pen.disc(x, 0.55, 0.12, "silver")


def mountain(pen: Pen) -> None:
    pen.shape(-1, 0.85, -0.15, -0.9, 0.6, 0.85)
    pen.shape(-0.15, -0.9, 0.05, -0.1, -0.1, 0.85, 0.6, 0.85, colour="dark")
    pen.shape(0, 0.85, 0.55, -0.25, 1, 0.85, colour="dark")
    pen.shape(-0.15, -0.9, -0.45, -0.28, -0.2, -0.42, -0.08, -0.25, 0.12, -0.3, colour="white")
    pen.shape(0.55, -0.25, 0.4, 0.05, 0.55, -0.02, 0.68, 0.05, colour="white")


def sailing(pen: Pen) -> None:
    pen.line(0, -0.98, 0, 0.5, width=0.06, colour="saddlebrown")
    pen.shape(0.06, -0.9, 0.06, 0.35, 0.8, 0.35)
    pen.shape(-0.06, -0.7, -0.06, 0.35, -0.65, 0.35, colour="light")
    pen.shape(-0.95, 0.45, 0.95, 0.45, 0.6, 0.9, -0.6, 0.9, colour="dark")
    pen.box(-0.95, 0.43, 0.95, 0.52, "ivory")


def knitting(pen: Pen) -> None:
    pen.line(-0.95, -0.85, 0.5, 0.6, width=0.07, colour="peru")
    pen.line(0.95, -0.85, -0.5, 0.6, width=0.07, colour="peru")
    pen.disc(-0.95, -0.85, 0.1, "gold")
    pen.disc(0.92, -0.85, 0.1, "gold")
    pen.disc(0, 0.2, 0.7)
    for inset in (0.1, 0.3, 0.5):
        pen.bow(-0.7 + inset, -0.5, 0.7, 0.9 - inset, 120, 300, 0.05, "dark")
        pen.bow(-0.7, -0.5 + inset, 0.7 - inset, 0.9, 300, 120, 0.05, "light")
    pen.line(0.3, 0.82, 0.6, 0.95, 0.98, 0.85, width=0.06, colour="main")


def pottery(pen: Pen) -> None:
    pen.bow(-0.95, -0.35, -0.3, 0.35, 90, 270, 0.1, "dark")
    pen.bow(0.3, -0.35, 0.95, 0.35, 270, 90, 0.1, "dark")
    pen.oval(-0.65, -0.5, 0.65, 0.85)
    pen.box(-0.3, -0.85, 0.3, -0.3)
    pen.oval(-0.45, -0.97, 0.45, -0.75, "dark")
    pen.box(-0.62, 0.05, 0.62, 0.13, "light")
    pen.box(-0.6, 0.25, 0.6, 0.33, "light")
    pen.box(-0.4, 0.75, 0.4, 0.92, "dark")


def woodwork(pen: Pen) -> None:
    pen.box(-1, 0.45, 1, 0.9, "burlywood")
    pen.line(-0.95, 0.6, 0.9, 0.62, width=0.03, colour="peru")
    pen.line(-0.8, 0.77, 0.95, 0.75, width=0.03, colour="peru")
    pen.shape(-0.95, -0.15, 0.45, -0.5, 0.5, 0.25, colour="lightgray")
    for tooth in range(14):
        x, y = -0.95 + 0.1 * tooth, -0.15 + 0.0275 * tooth
        pen.shape(x, y, x + 0.1, y + 0.0275, x + 0.05, y + 0.15, colour="lightgray")
    pen.box(0.4, -0.6, 0.95, 0.35)
    pen.box(0.55, -0.35, 0.8, 0.1, "burlywood")


def bicycle(pen: Pen) -> None:
    for x in (-0.55, 0.55):
        pen.ring(x, 0.3, 0.42, 0.08, "black")
        for dx, dy in ((0.35, 0), (0, 0.35), (0.25, 0.25), (0.25, -0.25)):
            pen.line(x - dx, 0.3 - dy, x + dx, 0.3 + dy, width=0.02, colour="silver")
    pen.line(-0.55, 0.3, -0.2, -0.35, 0.4, -0.35, 0, 0.3, -0.55, 0.3, width=0.18, colour="main")
    pen.line(-0.25, -0.5, 0, 0.3, width=0.16, colour="main")
    pen.line(0.55, 0.3, 0.35, -0.6, 0.6, -0.65, width=0.16, colour="main")
    pen.box(-0.45, -0.58, -0.05, -0.48, "black")


SUBJECTS: tuple[Callable[[Pen], None], ...] = (
    *(bread, cake, noodles, grill, football, tennis, surfing, skateboard),
    *(dog, cat, owl, whale, guitar, violin, drums, synth),
    *(lantern, train, mountain, sailing, knitting, pottery, woodwork, bicycle),
)
