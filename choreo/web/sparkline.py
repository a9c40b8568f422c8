"""A line of the last hour, as small as a word, as SVG."""

from collections.abc import Iterator, Sequence

from choreo.web.history import Series

#: In pixels.
WIDTH, HEIGHT = 96, 20


def area(series: Series) -> str:
    """The path of the filled area below the line. Where nothing is known, there is none."""
    return " ".join(
        f"M{_x(series, part[0][0])} {HEIGHT}{''.join(f'L{x} {y}' for x, y in _points(series, part))}"
        f"L{_x(series, part[-1][0] + 1)} {HEIGHT}Z"
        for part in _parts(series)
    )


def line(series: Series) -> str:
    """The path of the line."""
    return " ".join("M" + "L".join(f"{x} {y}" for x, y in _points(series, part)) for part in _parts(series))


def _points(series: Series, part: Sequence[tuple[int, float]]) -> Iterator[tuple[str, str]]:
    """Each value is a step as wide as its time."""
    most = max(series.most, 1e-9)
    for place, value in part:
        y = f"{HEIGHT - 1 - (HEIGHT - 3) * value / most:.1f}" if series.most else f"{HEIGHT - 1}"
        yield _x(series, place), y
        yield _x(series, place + 1), y


def _x(series: Series, place: int) -> str:
    return f"{place * WIDTH / len(series.values):.1f}"


def _parts(series: Series) -> Iterator[list[tuple[int, float]]]:
    """The values that are known, in runs without a gap."""
    part: list[tuple[int, float]] = []
    for place, value in enumerate(series.values):
        if value is not None:
            part.append((place, value))
        elif part:
            yield part
            part = []
    if part:
        yield part
