"""How fast a tree spreads, simulated with the swarm's own code: 3 to 1,000 nodes, against the bound; --svg draws it."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from benchmarks._swarm import MB, Ran, Simulation, alike, mixed
from benchmarks._table import Measure, Report, parser, say

SIZES = (3, 8, 30, 100, 300, 1000)
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 320, 50, 40, 30
COLOURS = {"alike": "#2f6fde", "mixed": "#d9822b"}
HIGHEST = 2.5


@dataclass(frozen=True)
class Point:
    kind: str
    ran: Ran

    @property
    def ratio(self) -> float:
        """Times the time of one copy."""
        return self.ran.seconds / self.ran.one_copy


def spread(kind: str, count: int, pieces: int, seed: int) -> Point:
    rates = alike(count) if kind == "alike" else mixed(count, seed)
    return Point(kind, Simulation(rates, pieces * MB, pieces, seed).run())


def row(point: Point) -> dict[str, object]:
    ran = point.ran
    return {
        "bandwidths": point.kind,
        "nodes": ran.nodes,
        "pieces": ran.pieces,
        "one copy s": ran.one_copy,
        "last node s": ran.seconds,
        "x one copy": point.ratio,
        "bound": ran.bound / ran.one_copy,
        "origin sent, copies": ran.copies,
    }


def plot(points: list[Point]) -> str:
    """The ratio over the number of nodes, as SVG; the bound is the dashed line."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        '     font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18">time until the last node has it / time of one copy (simulated)</text>',
    ]
    counts = sorted({point.ran.nodes for point in points})
    step = (WIDTH - LEFT - 30) / max(1, len(counts) - 1)

    def x(count: int) -> float:
        return LEFT + counts.index(count) * step

    def y(ratio: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * min(ratio, HIGHEST) / HIGHEST

    for tick in (0, 0.5, 1, 1.5, 2, 2.5):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    out += [f'<text x="{x(n):.1f}" y="{HEIGHT - 20}" text-anchor="middle">{n:,}</text>' for n in counts]
    out.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">nodes</text>')
    for at, (kind, colour) in enumerate(COLOURS.items()):
        mine = [point for point in points if point.kind == kind]
        line = " ".join(f"{x(point.ran.nodes):.1f},{y(point.ratio):.1f}" for point in mine)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{LEFT + 10 + at * 230}" y="{TOP + 12}" fill="{colour}">{LABELS[kind]}</text>')
    bound = " ".join(
        f"{x(point.ran.nodes):.1f},{y(point.ran.bound / point.ran.one_copy):.1f}"
        for point in points
        if point.kind == "alike"
    )
    out.append(f'<polyline points="{bound}" fill="none" stroke="#888" stroke-dasharray="4 4"/>')
    return "\n".join([*out, "</svg>\n"])


LABELS = {"alike": "all 15 MB/s", "mixed": "100 Mbit/s to 1 Gbit/s"}


def main(options: Namespace) -> None:
    report = Report("swarm")
    points = []
    for kind in COLOURS:
        for count in SIZES:
            if count <= options.nodes:
                say(f"{count} nodes, {LABELS[kind]}")
                points.append(spread(kind, count, options.pieces, options.seed))
    report.details = [row(point) for point in points]
    for point in points:
        if point.ran.nodes == 8:
            report.measures.append(Measure(f"8 nodes, {point.kind}: x one copy", point.ratio, "x", at_most=1.3))
            report.measures.append(Measure(f"8 nodes, {point.kind}: origin sent", point.ran.copies, "", at_most=1.3))
        if point.ran.nodes == 1000:
            report.measures.append(Measure(f"1,000 nodes, {point.kind}: x one copy", point.ratio, "x", at_most=1.5))
    report.notes = [
        f"Seed {options.seed}; a tree of {options.pieces} pieces of 1 MB; above 64 nodes 16 or more peers each."
    ]
    report.print(options.json)
    if options.svg:
        options.svg.write_text(plot(points))


if __name__ == "__main__":
    made = parser(__doc__, rounds=1)
    made.add_argument("--nodes", type=int, default=1000, help="at most (1000)")
    made.add_argument("--pieces", type=int, default=64, help="of the tree (64)")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--svg", type=Path, help="draw the result there")
    main(made.parse_args())
