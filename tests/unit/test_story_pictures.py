"""The pictures of a story and of dead letters are of today: nothing that they were made of has changed since."""

import json

import pytest

from tests.browser import story_pictures as pictures

README = (pictures.ROOT / "README.md").read_text()


@pytest.mark.parametrize("picture", pictures.sources())
def test_a_picture_is_made_of_what_there_is_today(picture: str):
    made_of = json.loads(pictures.DIGESTS.read_text())

    assert made_of.get(picture) == pictures.sources()[picture], (
        "draw the pictures again: python -m tests.browser.story_pictures"
    )


@pytest.mark.parametrize("picture", pictures.sources())
def test_a_picture_is_small_and_shown(picture: str):
    assert 1000 < (pictures.PICTURES / picture).stat().st_size < pictures.LARGEST
    assert f"docs/pictures/{picture}" in README
