"""Where the nodes and edges of a picture are, as Graphviz lays them out, in pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from choreo.observe.graphviz import laid_out
from choreo.observe.picture import Edge, Node, Picture

#: Pixels per inch of Graphviz; per character of a label; and around it.
INCH, CHARACTER, PADDING = 72.0, 6.7, 20.0
#: The heights of a node with one line, and with two.
LOW, HIGH = 24.0, 38.0
#: The most nodes that are drawn. Graphviz needs seconds for some hundreds of them.
MOST_NODES = 400


@dataclass(frozen=True)
class Box:
    """A node: the middle, width and height of its box, and its label."""

    node: Node
    x: float
    y: float
    width: float
    height: float
    #: The name of the service above the label; "" for an event.
    above: str = ""

    @property
    def left(self) -> float:
        """The left edge."""
        return self.x - self.width / 2

    @property
    def top(self) -> float:
        """The upper edge."""
        return self.y - self.height / 2


@dataclass(frozen=True)
class Arrow:
    """An edge: the path of an SVG, and where its label stands."""

    edge: Edge
    path: str
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Layout:
    """A whole picture."""

    width: float
    height: float
    boxes: Sequence[Box]
    arrows: Sequence[Arrow]


def layout(picture: Picture) -> Layout:
    """
    Lay out a picture from left to right or from top to bottom, whichever fits a screen better.

    Raises `ChoreoError` if there is no Graphviz here, or it fails.
    """
    found = [_read(picture, _plain(_digraph(picture, direction))) for direction in ("LR", "TB")]
    return min(found, key=lambda one: max(one.width / 1240, one.height / 700))


@lru_cache(maxsize=64)
def _plain(digraph: str) -> str:
    return laid_out(digraph, "plain")


def _digraph(picture: Picture, direction: str) -> str:
    names = {node: f"n{number}" for number, node in enumerate(picture.nodes)}
    lines = [
        "digraph {",
        f"graph [rankdir={direction}, nodesep=0.18, ranksep=0.62]",
        'node [shape=box, fixedsize=true, label=""]',
        "edge [dir=none, fontsize=9]",
    ]
    for node, name in names.items():
        width, height = _size(node)
        lines.append(f"{name} [width={width / INCH:.3f}, height={height / INCH:.3f}]")
    for edge in picture.edges:
        label = f' [label="{"m" * len(edge.label)}"]' if _is_labelled(edge) else ""
        lines.append(f"{names[edge.source]} -> {names[edge.target]}{label}")
    return "\n".join([*lines, "}"])


def _size(node: Node) -> tuple[float, float]:
    above = _above(node)
    return max(len(node.label), len(above) * 0.95) * CHARACTER + PADDING, HIGH if above else LOW


def _above(node: Node) -> str:
    return "" if node.kind in ("event", "service") else node.service


def _is_labelled(edge: Edge) -> bool:
    return edge.label not in ("", "cancels")


def _read(picture: Picture, plain: str) -> Layout:
    lines = [line.split(" ") for line in plain.splitlines()]
    sizes = next(line for line in lines if line[0] == "graph")
    width, height = float(sizes[2]) * INCH, float(sizes[3]) * INCH
    boxes = [_box(picture.nodes[int(line[1][1:])], line, height) for line in lines if line[0] == "node"]
    return Layout(width, height, boxes, list(_arrows(picture, lines, height)))


def _box(node: Node, line: Sequence[str], height: float) -> Box:
    return Box(node, float(line[2]) * INCH, height - float(line[3]) * INCH, *_size(node), _above(node))


def _arrows(picture: Picture, lines: Sequence[Sequence[str]], height: float) -> Iterator[Arrow]:
    """Graphviz names the edges of one node together, and those of two nodes in their order."""
    nodes = picture.nodes
    waiting = list(picture.edges)
    for line in lines:
        if line[0] != "edge":
            continue
        ends = nodes[int(line[1][1:])], nodes[int(line[2][1:])]
        edge = next(one for one in waiting if (one.source, one.target) == ends and _is_labelled(one) == (len(line) % 2))
        waiting.remove(edge)
        number = int(line[3])
        points = [
            f"{float(x) * INCH:.1f},{height - float(y) * INCH:.1f}"
            for x, y in zip(line[4 : 4 + 2 * number : 2], line[5 : 5 + 2 * number : 2], strict=True)
        ]
        label = [float(text) * INCH for text in line[5 + 2 * number : 7 + 2 * number]] if _is_labelled(edge) else [0, 0]
        yield Arrow(edge, f"M{points[0]}C{' '.join(points[1:])}", label[0], height - label[1])
