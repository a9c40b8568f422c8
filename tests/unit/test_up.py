"""`choreo up`: what it says about a second terminal. tests/integration/test_up.py runs it."""

from types import SimpleNamespace
from typing import Any

import pytest

from choreo.cli.up import _exports, _introduce

URL = "redis://:pw@127.0.0.1:1/0"


def platform(*namespaces: str) -> Any:
    return SimpleNamespace(
        package="shop", server=object(), broker_url=URL, given_store_url=None, namespaces=list(namespaces), silent={}
    )


def test_the_namespace_of_the_services_is_exported() -> None:
    assert _exports(platform("newcomer")) == [f"export CHOREO_BROKER_URL={URL}", "export CHOREO_NAMESPACE=newcomer"]
    assert _exports(platform("")) == [f"export CHOREO_BROKER_URL={URL}"]


def test_several_namespaces_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    _introduce(platform("", "staging"), {})

    said = capsys.readouterr().out
    assert "The services have several namespaces: no namespace, 'staging'. The last is used" in said
    assert "  export CHOREO_NAMESPACE=staging\n  choreo publish" in said
