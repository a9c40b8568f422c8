"""The pictures of docs/web.md show the pages as they are."""

import json
import re
from pathlib import Path

from tests.browser.pictures import HERE, PICTURES, WORDS, shop
from tests.unit.browser import Browser

AGAIN = "Draw them again: python -m tests.browser.pictures"


def test_the_pictures_show_what_the_pages_say() -> None:
    with shop() as site:
        said = {page: Browser(site).get(page).main for page in json.loads(WORDS.read_text())}

    assert said == json.loads(WORDS.read_text()), AGAIN


def test_every_picture_is_there_and_shown() -> None:
    shown = re.findall(r"\(pictures/([\w-]+)\.png\)", (HERE.parent / "web.md").read_text())

    assert set(PICTURES) <= set(shown)
    assert {path.stem for path in HERE.glob("*.png")} >= set(PICTURES), AGAIN
    assert all(Path(HERE / f"{name}.png").stat().st_size < 400_000 for name in PICTURES)
