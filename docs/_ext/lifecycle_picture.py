"""The directive `lifecycle-picture`: the states of a server, drawn from the table that the server obeys.

Where a state is drawn stands here; which states there are, what leads from one to the other and how it is called
comes from `plugsocket.core.lifecycle`. A state without a place fails the build.
"""

from html import escape
from typing import NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from plugsocket.core.lifecycle import FINAL, TRANSITIONS, State


class Point(NamedTuple):
    """A place in the picture, in its own units."""

    x: float
    y: float


Curve = tuple[Point, Point, Point, Point]
"""A start, two control points and an end, as Bezier curves have them."""

WIDTH, HEIGHT = 960, 524
HALF = Point(62, 24)  # of the box of a state
GAP = 3  # between a box and an arrow's point

PLACES = {
    State.NEW: Point(70, 230),
    State.BOUND: Point(268, 230),
    State.SERVING: Point(540, 230),
    State.PAUSED: Point(800, 230),
    State.FAILED: Point(540, 32),
    State.DRAINING: Point(540, 490),
    State.CLOSED: Point(70, 490),
}

# Arrows that would run through a state go by these points instead (the control points of a Bezier curve).
DETOURS = {
    (State.PAUSED, State.BOUND): (Point(640, 326), Point(440, 326)),
    (State.DRAINING, State.FAILED): (Point(1056, 490), Point(1056, 32)),
}
SIDESTEP = 36  # of the arrows of a pair that leads both ways


def picture() -> str:
    """Draw the states and the moves between them as an SVG element."""
    states = {state for pair in TRANSITIONS.items() for state in (pair[0][0], pair[1])}
    missing = sorted(state.name for state in states - PLACES.keys())
    if missing:
        raise ExtensionError(f"lifecycle_picture.PLACES has no place for {', '.join(missing)}")
    labels: dict[tuple[State, State], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        labels.setdefault((before, after), []).append(event)
    curves = {pair: _curve(*pair, both_ways=pair[::-1] in labels) for pair in labels}
    parts = [_arrow(pair, curve) for pair, curve in curves.items()]
    parts += [_label(pair, curves[pair], ", ".join(events)) for pair, events in labels.items()]
    parts += [_box(state) for state in State if state in states]
    moves = "; ".join(f"{a.name} to {b.name}: {', '.join(events)}" for (a, b), events in labels.items())
    return (
        f'<svg class="lifecycle" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>The states of a server</title><desc>{escape(moves)}</desc>"
        '<defs><marker id="lifecycle-point" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse"><path d="M0 1 L10 5 L0 9 z"/></marker></defs>'
        f"{''.join(parts)}</svg>"
    )


def _box(state: State) -> str:
    place = PLACES[state]
    kind = "final" if state in FINAL else "start" if state is State.NEW else "state"
    return (
        f'<g class="{kind}"><rect x="{place.x - HALF.x}" y="{place.y - HALF.y}" width="{2 * HALF.x}" '
        f'height="{2 * HALF.y}" rx="8"/><text x="{place.x}" y="{place.y}">{state.name}</text></g>'
    )


def _curve(before: State, after: State, *, both_ways: bool) -> Curve:
    start, end = PLACES[before], PLACES[after]
    bends = DETOURS.get((before, after)) or (_aside(start, end, SIDESTEP if both_ways else 0),) * 2
    return _edge(start, bends[0], 0), bends[0], bends[1], _edge(end, bends[1], GAP)


def _kind(pair: tuple[State, State]) -> str:
    return "failure" if pair[1] is State.FAILED else "move"


def _arrow(pair: tuple[State, State], curve: Curve) -> str:
    numbers = (number for point in curve for number in point)
    path = "M{:.0f} {:.0f} C{:.0f} {:.0f} {:.0f} {:.0f} {:.0f} {:.0f}".format(*numbers)
    return f'<path class="{_kind(pair)}" d="{path}" marker-end="url(#lifecycle-point)"/>'


def _label(pair: tuple[State, State], curve: Curve, text: str) -> str:
    middle = _on(curve, 0.5)
    return f'<text class="{_kind(pair)}" x="{middle.x:.0f}" y="{middle.y:.0f}">{escape(text)}</text>'


def _aside(start: Point, end: Point, distance: float) -> Point:
    """The point beside the middle of a line, to the left of who goes along it."""
    dx, dy = end.x - start.x, end.y - start.y
    length = (dx * dx + dy * dy) ** 0.5
    return Point((start.x + end.x) / 2 + dy / length * distance, (start.y + end.y) / 2 - dx / length * distance)


def _edge(box: Point, towards: Point, gap: float) -> Point:
    """The point where a line from the middle of a box leaves it, and `gap` further."""
    dx, dy = towards.x - box.x, towards.y - box.y
    scale = min((HALF.x + gap) / abs(dx) if dx else 1e9, (HALF.y + gap) / abs(dy) if dy else 1e9)
    return Point(box.x + dx * scale, box.y + dy * scale)


def _on(curve: Curve, t: float) -> Point:
    """A point of a cubic Bezier curve."""
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
    x, y = (sum(weight * point[axis] for weight, point in zip(weights, curve, strict=True)) for axis in (0, 1))
    return Point(x, y)


class LifecyclePicture(SphinxDirective):
    """Puts the picture where the directive stands."""

    def run(self) -> list[nodes.Node]:
        """Return the picture as HTML, which is the only form that it has."""
        return [nodes.raw("", f'<figure class="picture">{picture()}</figure>', format="html")]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Make the directive known to Sphinx."""
    app.add_directive("lifecycle-picture", LifecyclePicture)
    return {"parallel_read_safe": True}
