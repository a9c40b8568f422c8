"""The map as a picture: nodes and edges, and the languages of Mermaid and Graphviz for them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from choreo.observe.map import Hearer, Map, MappedEvent, is_wild
from choreo.printing import one_line

#: The colours of the services, pale enough for black text.
COLOURS = (
    "#dbeafe", "#dcfce7", "#fae8ff", "#ffedd5", "#e0f2fe", "#fce7f3", "#ecfccb", "#ede9fe", "#ccfbf1", "#fee2e2",
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """An event, a handler, or a service that announces outside of handlers."""

    #: "event", "handler", "join", "story" or "service".
    kind: str
    name: str
    label: str
    #: The name of the service; "" for an event.
    service: str = ""
    #: What is said of it where there is room for it.
    title: str = ""
    #: True for an event that no handler hears by its name.
    is_lonely: bool = False


@dataclass(frozen=True)
class Edge:
    """An arrow from one who announces to an event, or from an event to a handler."""

    source: Node
    target: Node
    label: str = ""


class Picture:
    """
    The nodes and edges of a map. Handlers that hear a pattern, and stories, have no edges from what they hear: they
    would have one from nearly every event.

    `mermaid` and `dot` are texts. Every name in them is escaped.
    """

    def __init__(self, shown: Map) -> None:
        self._map = shown
        self._handlers = {handler.name: handler for handler in shown.handlers}
        self._nodes: dict[tuple[str, str], Node] = {}
        self.edges: list[Edge] = []
        for event in shown.events:
            self._add(event)
        for handler in shown.handlers:
            if handler in shown.wildcards or handler.kind == "story":
                self._of_handler(handler.name)

    @property
    def nodes(self) -> list[Node]:
        """All nodes, each once."""
        return list(self._nodes.values())

    def mermaid(self) -> str:
        """As a flowchart of Mermaid, which GitHub and GitLab draw in Markdown."""
        ids = self._ids()
        lines = ["flowchart LR"]
        for node in self._events():
            lines.append(f"  {ids[node]}({_quoted(node.label)}){':::lonely' if node.is_lonely else ''}")
        for service, nodes in self._by_service():
            lines.append(f"  subgraph s_{_plain(service)}[{_quoted(service)}]")
            lines += [f"    {ids[node]}{_shape(node)}" for node in nodes]
            lines.append("  end")
        for edge in self.edges:
            arrow = {"": "-->", "cancels": "--x"}.get(edge.label, f"-. {edge.label} .->")
            lines.append(f"  {ids[edge.source]} {arrow} {ids[edge.target]}")
        lines.append("  classDef lonely stroke-dasharray: 4")
        return "\n".join(lines)

    def dot(self, direction: str = "LR") -> str:
        """As a digraph of Graphviz, from left to right ("LR") or from top to bottom ("TB")."""
        ids, colours = self._ids(), dict(zip(sorted(self._services()), _cycled(), strict=False))
        lines = [
            "digraph choreo {",
            f"  graph [rankdir={direction}]",
            '  graph [nodesep=0.15, ranksep=0.7, fontname="Helvetica", pad=0.3]',
            '  node [shape=box, style=filled, fontname="Helvetica", fontsize=11, height=0.3, color="#94a3b8"]',
            '  node [margin="0.16,0.06"]',  # fonts differ in width
            '  edge [color="#64748b", arrowsize=0.6, fontname="Helvetica", fontsize=9, fontcolor="#64748b"]',
        ]
        for node in self.nodes:
            fill = colours[node.service] if node.service else "#ffffff"
            about = {"label": node.label, "tooltip": node.title or node.name, "fillcolor": fill}
            about |= _dot_shape(node)
            options = ", ".join(f"{name}={_string(text)}" for name, text in about.items())
            lines.append(f"  {ids[node]} [{options}]")
        for edge in self.edges:
            style = {"": "", "cancels": ' [arrowhead=tee, style=dashed, tooltip="cancels"]'}
            told = style.get(edge.label, f" [style=dashed, label={_string(edge.label)}]")
            lines.append(f"  {ids[edge.source]} -> {ids[edge.target]}{told}")
        return "\n".join([*lines, "}"])

    def _add(self, event: MappedEvent) -> None:
        node = self._node("event", event.type, event.type, is_lonely=not event.by_name, title=_told(event))
        for announcer in event.announced_by:
            source = (
                self._of_service(announcer.service)
                if announcer.how in ("declared", "seen", "dead_letter", "itself")
                else self._of_handler(announcer.name)
            )
            label = {"on_timeout": "timeout", "dead_letter": "dead letter"}.get(announcer.how, "")
            self.edges.append(Edge(source, node, label))
        for hearer in event.by_name:
            label = {"unless": "cancels", "effect": "undone by"}.get(hearer.how, "")
            self.edges.append(Edge(node, self._of_handler(hearer.name), label))

    def _of_handler(self, name: str) -> Node:
        handler = self._handlers.get(name)
        service, _, short = name.partition(".")
        wild = [pattern for pattern in handler.hears if is_wild(pattern)] if handler else []
        label = f"{short} hears {', '.join(wild)}" if wild else short
        kind = handler.kind if handler and handler.kind in ("join", "story") else "handler"
        if handler and kind == "story":
            return self._node(kind, name, f"{short} (story)", service, f"{name} follows {', '.join(handler.hears)}")
        return self._node(kind, name, label, service, _read(name, self._map))

    def _of_service(self, name: str) -> Node:
        return self._node("service", name, name, name, f"{name} announces outside of its handlers")

    def _node(
        self, kind: str, name: str, label: str, service: str = "", title: str = "", *, is_lonely: bool = False
    ) -> Node:
        node = Node(kind, name, one_line(label), service, one_line(title), is_lonely)
        return self._nodes.setdefault(("event" if kind == "event" else "", f"{kind == 'service'} {name}"), node)

    def _ids(self) -> dict[Node, str]:
        """A name of letters and digits for each node: readable, and no two alike."""
        ids: dict[Node, str] = {}
        taken: set[str] = set()
        for node in self.nodes:
            plain = f"{'e' if node.kind == 'event' else 'h'}_{_plain(node.name)}"
            ids[node] = next(one for one in _numbered(plain) if one not in taken)
            taken.add(ids[node])
        return ids

    def _events(self) -> list[Node]:
        return [node for node in self.nodes if node.kind == "event"]

    def _services(self) -> set[str]:
        return {node.service for node in self.nodes if node.service}

    def _by_service(self) -> Iterator[tuple[str, list[Node]]]:
        for service in sorted(self._services()):
            nodes = [node for node in self.nodes if node.service == service]
            yield service, sorted(nodes, key=lambda node: (node.kind != "service", node.name))


def _told(event: MappedEvent) -> str:
    if event.by_name:
        return event.type
    return f"{event.type}: {'only a pattern' if event.heard_by else 'nobody'} hears it"


def _read(handler: str, shown: Map) -> str:
    hearers: list[tuple[str, Hearer]] = [
        (event.type, hearer) for event in shown.events for hearer in event.by_name if hearer.name == handler
    ]
    read = [f"{kind}: {', '.join(hearer.reads or ('all',))}" for kind, hearer in hearers if hearer.how != "unless"]
    return " | ".join([handler, *read])


def _shape(node: Node) -> str:
    shapes = {"join": ("{{", "}}"), "story": ("[/", "/]"), "service": ("([", "])")}
    before, after = shapes.get(node.kind, ("[", "]"))
    return f"{before}{_quoted(node.label)}{after}"


def _dot_shape(node: Node) -> dict[str, str]:
    if node.kind == "event":
        return {"style": "rounded,filled,dashed" if node.is_lonely else "rounded,filled"}
    if node.kind == "service":
        return {"shape": "ellipse"}
    label = f"{node.service}\n{node.label}"
    shapes = {"join": {"peripheries": "2"}, "story": {"shape": "note"}}
    return {"label": label, **shapes.get(node.kind, {})}


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name)


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in count(2))


def _cycled() -> Iterator[str]:
    while True:
        yield from COLOURS


def _quoted(text: str) -> str:
    """A label of Mermaid: its own escapes, since it reads HTML and has no backslash."""
    safe = text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
    return f'"{safe}"'


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
