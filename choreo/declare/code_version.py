"""The version of a service's code, as its distribution tells it."""

import json
import sys
from importlib import metadata
from pathlib import Path


def version_of(module: str) -> str:
    """
    The version of the distribution that has this module; "" if none does, or it is not imported.

    Reads the list of all distributions: it takes some milliseconds.
    """
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file:
        return ""
    path, top = Path(file).resolve(), module.partition(".")[0]
    for name in dict.fromkeys([*_distributions(top), top]):
        try:
            distribution = metadata.distribution(name)
        except (metadata.PackageNotFoundError, ValueError):
            continue
        if _has(distribution, path):
            return distribution.version
    return ""


def _distributions(top: str) -> list[str]:
    return list(metadata.packages_distributions().get(top, ()))


def _has(distribution: metadata.Distribution, path: Path) -> bool:
    """True if the file belongs to this distribution: it is beside its metadata, or in the directory that it links."""
    places = [Path(str(distribution.locate_file("")))]
    try:
        # An editable install names its directory there.
        url = json.loads(distribution.read_text("direct_url.json") or "{}").get("url", "")
    except ValueError:
        url = ""
    if url.startswith("file://"):
        places.append(Path(url.removeprefix("file://")))
    return any(path.is_relative_to(place.resolve()) for place in places)
