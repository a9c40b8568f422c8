"""The version of a service's code."""

import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from choreo import DeclarationError, Event
from choreo.declare.code_version import version_of
from tests.unit.stage import service


class OrderPlaced(Event):
    pass


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for installed packages, with the distribution `acme-shop` 3.2.1, which has the package acme_shop."""
    about = tmp_path / "acme_shop-3.2.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-shop\nVersion: 3.2.1\n")
    (about / "RECORD").write_text("acme_shop/__init__.py,,\nacme_shop/payment.py,sha256=x,0\n")
    package = tmp_path / "acme_shop"
    package.mkdir()
    (package / "payment.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def loaded(monkeypatch: pytest.MonkeyPatch, name: str, file: Path) -> str:
    module = ModuleType(name)
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, name, module)
    return name


def test_it_is_that_of_the_distribution_that_has_the_module(installed: Path, monkeypatch: pytest.MonkeyPatch):
    module = loaded(monkeypatch, "acme_shop.payment", installed / "acme_shop/payment.py")

    assert version_of(module) == "3.2.1"
    assert version_of("pytest") == metadata.version("pytest")
    beside = loaded(monkeypatch, "acme_shop.other", installed / "acme_shop/other.py")
    assert version_of(beside) == "", "a file beside it that is not its own"


def test_a_directory_that_an_editable_install_names_belongs_to_it(
    installed: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    checkout = tmp_path_factory.mktemp("checkout")
    module = loaded(monkeypatch, "acme_shop.payment", checkout / "acme_shop/payment.py")
    assert version_of(module) == "", "another package of this name"

    (installed / "acme_shop-3.2.1.dist-info/direct_url.json").write_text(
        f'{{"url": "file://{checkout}", "dir_info": {{"editable": true}}}}'
    )

    assert version_of(module) == "3.2.1"


def test_without_a_distribution_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = loaded(monkeypatch, "plain_shop", tmp_path / "plain_shop.py")

    assert version_of(plain) == version_of("no.such.module") == version_of("sys") == ""


def test_the_setting_goes_first():
    assert service("shop", choreo_version="abc123").runtime.version == "abc123"
    assert service("shop", choreo_version=None).runtime.version == service("shop").runtime.version


def test_a_version_that_is_no_text_is_refused():
    app = service("shop", choreo_version=1.4)

    with pytest.raises(DeclarationError, match=r'choreo_version = 1\.4: it takes a text, like "1\.4\.2"'):
        app.publish(OrderPlaced())
