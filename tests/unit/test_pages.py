"""The README lists every page of the documentation, once."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_page_is_listed_once() -> None:
    listed = re.findall(r"\]\[([^\]]+)\]", README.partition("\n## More\n")[2])
    places = dict(re.findall(r"^\[([^\]]+)\]: \S+?/blob/main/(\S+)$", README, re.MULTILINE))

    assert sorted(listed) == sorted(set(listed))
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages - {places.get(name) for name in listed} == set()
