"""Charts as SVG by hand: small files without identifiers, so that many share a page and its colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from dprune.reporting.markup import escape

Points = Sequence[tuple[float, float]]

PALETTE = 8
"""Colours c0 to c7; the style sheet holds them."""

MARKERS = {"lowest": "circle", "highest": "square", "middle": "triangle", "random": "diamond"}
DASHES = {"lowest": "", "highest": "6 3", "middle": "2 3"}

# Those of Okabe and Ito, which the colour-blind can tell apart, darker or lighter for the ground that they are on.
STYLE = """
svg{font:11px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
--ink:#1d2530;--faint:#667080;--rule:#dfe3e8;--ground:#fff;
--c0:#0072b2;--c1:#c4500a;--c2:#00835c;--c3:#b8578f;--c4:#a87800;--c5:#6a4fb3;--c6:#2f8fc4;--c7:#7a6a58}
@media (prefers-color-scheme:dark){svg{--ink:#e8ebef;--faint:#9aa5b3;--rule:#333c47;--ground:#14181d;
--c0:#4ba3e3;--c1:#f0803c;--c2:#2cc194;--c3:#e08fbd;--c4:#e3b341;--c5:#a994ea;--c6:#86c8ee;--c7:#b9a58f}}
""".strip()
SHAPES = """
.ground{fill:var(--ground)}.t{fill:var(--ink)}.f{fill:var(--faint)}.title{font-weight:600;font-size:12.5px}
.grid{stroke:var(--rule);stroke-width:1}.base{stroke:var(--faint);stroke-width:1}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.bar{stroke-width:1.3;fill:none}.alone{stroke-dasharray:2 2}
.edge{stroke:var(--faint)}.band{opacity:.16;stroke:none}.band.pk{opacity:.08}
.mark{stroke:var(--ground);stroke-width:1}.dots{stroke-linecap:round;fill:none}
.soft{opacity:.72}.tick{stroke-width:1.6}.steps{fill:none;stroke-width:1.5}.thin{stroke-width:1.2}
.ref{fill:none;stroke:var(--ink);stroke-width:1.4;stroke-dasharray:7 4}.ref2{stroke-dasharray:2 3}
""".strip() + "".join(
    f".s{n}{{stroke:var(--c{n})}}.p{n}{{fill:var(--c{n})}}" for n in range(PALETTE)
) + ".sk{stroke:var(--ink)}.pk{fill:var(--ink)}.sf{stroke:var(--faint)}.pf{fill:var(--faint)}"  # fmt: skip


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers that cover `low` to `high` about `count` times."""
    span = (high - low) or abs(high) or 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Write a tick with as many digits as it has."""
    if abs(value) < 1e-12:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-4:
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return f"{value:.7g}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.stop - self.start)


def padded(values: Sequence[float], share: float = 0.07) -> tuple[float, float]:
    """Return bounds a little beyond all values."""
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        margin = (high - low) * share
    elif abs(high) > 1e-9:
        # What differs by rounding alone is a constant.
        margin = abs(high) * 0.1
    else:
        return -0.05, 1.0
    return low - margin, high + margin


@dataclass
class Chart:
    """One chart with its axes; drawing adds to it.

    Attributes:
        title: above it.
        x: bounds of the horizontal axis.
        y: bounds of the vertical axis.
        width: in pixels of the view.
        height: in pixels of the view.
        label: what readers of screens are told.
    """

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 360
    height: int = 232
    label: str = ""
    margin: tuple[int, int, int, int] = (30, 12, 34, 46)
    _parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Fit the scales into the margins: top, right, bottom, left."""
        top, right, bottom, left = self.margin
        self.across = Scale(*self.x, left, self.width - right)
        self.up = Scale(*self.y, self.height - bottom, top)

    def grid(self, x_ticks: Sequence[tuple[float, str]], x_title: str, *, y: bool = True) -> None:
        """Draw the axes with horizontal lines at round values."""
        left, right, bottom = self.across.start, self.across.stop, self.up.start
        for value in ticks(*self.y, 4) if y else ():
            level = self.up(value)
            self._parts.append(f'<path class="grid" d="M{left:.1f} {level:.1f}H{right:.1f}"/>')
            self.text(left - 6, level + 3.5, tick_text(value), "f", "end")
        self._parts.append(f'<path class="base" d="M{left:.1f} {bottom:.1f}H{right:.1f}"/>')
        for value, name in x_ticks:
            self.text(self.across(value), bottom + 14, name, "f", "middle")
        self.text((left + right) / 2, self.height - 5, x_title, "f", "middle")

    def text(self, x: float, y: float, content: str, css: str, anchor: str = "start") -> None:
        """Write text at pixels."""
        self._parts.append(
            f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
        )

    def line(self, points: Points, colour: str, dash: str = "", css: str = "line") -> None:
        """Draw a line through values."""
        self._parts.append(stroke(f"{css} s{colour}", dash, self._path(points)))

    def level(self, value: float, css: str, title: str = "") -> None:
        """Draw a line across at a value that the axis has, which tells `title` when pointed at."""
        if self._inside(value) == value:
            at, said = self.up(value), f"<title>{escape(title)}</title>" if title else ""
            outline = f"M{self.across.start:.1f} {at:.1f}H{self.across.stop:.1f}"
            self._parts.append(f'<path class="{css}" d="{outline}">{said}</path>')

    def band(self, upper: Points, lower: Points, colour: str) -> None:
        """Fill what lies between two lines, as far as the axis goes."""
        outline = self._path([(x, self._inside(y)) for x, y in (*upper, *reversed(lower))])
        self._parts.append(f'<path class="band p{colour}" d="{outline}Z"/>')

    def error(self, x: float, low: float, high: float, colour: str, css: str = "") -> None:
        """Draw an error bar as far as the axis goes; an end beyond it has no cap."""
        at, ends = self.across(x), [(end, self.up(self._inside(end))) for end in (high, low)]
        caps = "".join(f"M{at - 3:.1f} {y:.1f}h6" for end, y in ends if self._inside(end) == end)
        outline = f"{caps}M{at:.1f} {ends[0][1]:.1f}V{ends[1][1]:.1f}"
        self._parts.append(f'<path class="{" ".join(filter(None, ("bar", css, f"s{colour}")))}" d="{outline}"/>')

    def _inside(self, y: float) -> float:
        return min(max(y, self.y[0]), self.y[1])

    def mark(self, x: float, y: float, colour: str, shape: str, title: str = "") -> None:
        """Draw a marker, which tells `title` when pointed at."""
        self._parts.append(marker(self.across(x), self.up(y), colour, shape, title))

    def bars(self, spans: Sequence[tuple[float, float, float]], colour: str, css: str = "") -> None:
        """Fill bars from zero: begin, end, height."""
        floor = self.up(max(0.0, self.y[0]))
        outline = "".join(
            f"M{self.across(begin):.1f} {floor:.1f}V{self.up(height):.1f}H{self.across(end):.1f}V{floor:.1f}Z"
            for begin, end, height in spans
        )
        self._parts.append(f'<path class="p{colour} {css}" d="{outline}"/>')

    def ticks_at(self, spans: Sequence[tuple[float, float, float]], css: str) -> None:
        """Draw short horizontal lines: begin, end, height."""
        outline = "".join(f"M{self.across(a):.1f} {self.up(h):.1f}H{self.across(b):.1f}" for a, b, h in spans)
        self._parts.append(f'<path class="{css}" fill="none" d="{outline}"/>')

    def dots(self, points: Points, colour: str, size: float, opacity: float = 1) -> None:
        """Draw many points as one path."""
        outline = "".join(f"M{self.across(x):.1f} {self.up(y):.1f}h0" for x, y in points)
        self._parts.append(f'<path class="dots s{colour}" stroke-width="{size}" opacity="{opacity:g}" d="{outline}"/>')

    def _path(self, points: Points) -> str:
        return "M" + "L".join(f"{self.across(x):.1f} {self.up(y):.1f}" for x, y in points)

    def inline(self) -> str:
        """Return the chart for a page that has the style."""
        return self._svg("", self.height, self.width)

    def standalone(self, legend: Sequence[tuple[str, str]] = ()) -> str:
        """Return the chart as a file of its own.

        Args:
            legend: samples of lines with what they are.
        """
        rows = "".join(
            f'<g transform="translate({self.margin[3]} {self.height + 18 * row})">{sample}'
            f'<text class="t" x="40" y="10">{escape(name)}</text></g>'
            for row, (sample, name) in enumerate(legend)
        )
        height = self.height + 18 * len(legend) + 6
        width = max([self.width, *(self.margin[3] + 50 + int(6.5 * len(name)) for _, name in legend)])
        ground = f'<style>{STYLE}{SHAPES}</style><rect class="ground" width="{width}" height="{height}"/>'
        return self._svg(ground, height, width, rows) + "\n"

    def _svg(self, before: str, height: int, width: int, after: str = "") -> str:
        title = f'<text class="t title" x="2" y="14">{escape(self.title)}</text>'
        label = escape(self.label or self.title)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{label}">{before}{title}{"".join(self._parts)}{after}</svg>'
        )


def marker(x: float, y: float, colour: str, shape: str, title: str = "") -> str:
    """Return a marker at pixels."""
    said = f"<title>{escape(title)}</title>" if title else ""
    outlines = {
        "square": f"M{x - 3.6:.1f} {y - 3.6:.1f}h7.2v7.2h-7.2Z",
        "triangle": f"M{x:.1f} {y - 4.8:.1f}l4.6 8h-9.2Z",
        "diamond": f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5Z",
    }
    if shape in outlines:
        return f'<path class="mark p{colour}" d="{outlines[shape]}">{said}</path>'
    return f'<circle class="mark p{colour}" cx="{x:.1f}" cy="{y:.1f}" r="4">{said}</circle>'


def stroke(css: str, dash: str = "", d: str = "M0 6H34") -> str:
    """Return a line, by default a short one for legends, 34 by 12 pixels."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path class="{css}"{dashed} d="{d}"/>'


def sample(colour: str, shape: str, dash: str) -> str:
    """Return a short line with its marker, for legends."""
    return stroke(f"line s{colour}", dash) + marker(17, 6, colour, shape)


INTERVAL = '<path class="band pf" d="M0 1H34V11H0Z"/>' + stroke("bar sf", "", "M17 1V11M14 1h6M14 11h6")
INTERVAL_ALONE = stroke("bar alone sf", "", "M17 0V12M14 0h6M14 12h6")
"""Samples of intervals for legends."""
