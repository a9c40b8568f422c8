"""The version of a service's code, as its distribution tells it."""

import json
import sys
from importlib import metadata
from pathlib import Path


def version_of(module: str) -> str:
    """
    The version of the distribution that has this module; "" if none does, or it is not imported.

    Looks through all distributions of this environment: some milliseconds.
    """
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file:
        return ""
    path = Path(file).resolve()
    return next((known.version for known in metadata.distributions() if _has(known, path)), "")


def _has(distribution: metadata.Distribution, path: Path) -> bool:
    """True if the file belongs to this distribution: it is in its record, or in the directory that it links."""
    place = Path(str(distribution.locate_file(""))).resolve()
    if path.is_relative_to(place):
        record = distribution.read_text("RECORD") or ""
        return f"\n{path.relative_to(place).as_posix()}," in f"\n{record}"
    linked = _linked(distribution)
    return linked is not None and path.is_relative_to(linked.resolve())


def _linked(distribution: metadata.Distribution) -> Path | None:
    """The directory of an editable install."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        url = str(origin["url"]) if origin["dir_info"]["editable"] else ""
    except (ValueError, KeyError, TypeError):
        return None
    return Path(url.removeprefix("file://")) if url.startswith("file://") else None
