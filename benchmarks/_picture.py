"""Distributions of latencies as an SVG: a panel per load, a line per subject, time to the right by powers of ten."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_COLOURS = (
    "#1b6ac9",
    "#56a3f5",
    "#7a7a7a",
    "#b8b8b8",
    "#c9531b",
    "#2b8a3e",
    "#9c36b5",
    "#e0a800",
    "#0b7285",
    "#d6336c",
    "#5c4033",
)
_LEFT, _TOP, _WIDTH, _HEIGHT, _GAP = 50, 40, 380, 260, 60
_STYLE = "font: 12px sans-serif; fill: #333"

Lines = Mapping[str, Sequence[float]]
"""By subject: its 1st to 99th percentile, milliseconds."""


def draw(panels: Mapping[str, Lines]) -> str:
    """The text of the picture. Colours go by the order of the subjects in the first panel."""
    names = list(next(iter(panels.values())))
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(names)}
    times = [time for lines in panels.values() for line in lines.values() for time in line if time > 0]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    width = _LEFT + len(panels) * (_WIDTH + _GAP)
    height = _TOP + _HEIGHT + 50 + 18 * math.ceil(len(names) / 4)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="{_STYLE}">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for place, (title, lines) in enumerate(panels.items()):
        parts += _panel(_LEFT + place * (_WIDTH + _GAP), title, lines, colours, low, high)
    parts += _legend(colours, width)
    return "\n".join([*parts, "</svg>", ""])


def _panel(left: int, title: str, lines: Lines, colours: Mapping[str, str], low: int, high: int) -> list[str]:
    def x(time: float) -> float:
        return left + (math.log10(max(time, 10**low)) - low) / (high - low) * _WIDTH

    def y(percent: float) -> float:
        return _TOP + (1 - percent / 100) * _HEIGHT

    parts = [f'<text x="{left}" y="{_TOP - 14}" font-weight="bold">{escape(title)}</text>']
    for percent in (0, 25, 50, 75, 100):
        parts.append(f'<path d="M{left} {y(percent):.1f}h{_WIDTH}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{left - 6}" y="{y(percent) + 4:.1f}" text-anchor="end">{percent}%</text>')
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<path d="M{at:.1f} {_TOP}v{_HEIGHT}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{at:.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{10.0**power:g} ms</text>')
    for name, line in lines.items():
        points = " ".join(f"{x(time):.1f},{y(percent):.1f}" for percent, time in enumerate(line, 1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
    return parts


def _legend(colours: Mapping[str, str], width: int) -> list[str]:
    parts = []
    for place, (name, colour) in enumerate(colours.items()):
        x = _LEFT + place % 4 * (width - _LEFT) / 4
        y = _TOP + _HEIGHT + 46 + 18 * (place // 4)
        parts.append(f'<path d="M{x:.0f} {y - 4}h18" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 24:.0f}" y="{y}">{escape(name)}</text>')
    return parts
