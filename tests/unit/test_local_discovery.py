"""Which modules of a package are services."""

from pathlib import Path
from textwrap import dedent
from uuid import uuid4

import pytest

from choreo.local.discovery import DiscoveryError, FoundService, find_services

SERVICE = "from celery import Celery\napp = Celery('{0}')\napp.service_name = '{0}'\n"


class Package:
    """A package that is written to disk for one test; its name is its own, as imports last for the whole run."""

    def __init__(self, directory: Path) -> None:
        self.name = f"shop_{uuid4().hex[:8]}"
        self.directory = directory / self.name
        self.write("__init__", "")

    def write(self, module: str, source: str) -> None:
        path = self.directory / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source).replace("PACKAGE", self.name))

    def modules(self) -> dict[str, str]:
        return {name: found.module.removeprefix(f"{self.name}.") for name, found in find_services(self.name).items()}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    monkeypatch.syspath_prepend(tmp_path)
    return Package(tmp_path)


def test_each_module_that_makes_a_service_is_found(package: Package) -> None:
    package.write("payment", SERVICE.format("payment"))
    package.write("cook", SERVICE.format("restaurant"))
    package.write("events", "total = 0")

    assert package.modules() == {"payment": "payment", "restaurant": "cook"}


def test_a_module_that_only_imports_a_service_is_not_its_home(package: Package) -> None:
    package.write("payment", SERVICE.format("payment"))
    package.write("a_script", "from PACKAGE.payment import app\n")
    package.write("b_script", "def main():\n    pass\nif True:\n    from PACKAGE.payment import app as payment\n")

    assert package.modules() == {"payment": "payment"}


def test_a_service_that_is_not_called_app_is_named_to_celery(package: Package) -> None:
    package.write("payment", SERVICE.format("payment").replace("app", "payment"))

    assert find_services(package.name) == {
        "payment": FoundService("payment", f"{package.name}.payment", "payment"),
    }
    assert find_services(package.name)["payment"].target == f"{package.name}.payment:payment"


def test_a_plain_celery_app_is_not_a_service(package: Package) -> None:
    package.write("payment", SERVICE.format("payment"))
    package.write("shift", "import celery\nnow = celery.current_app\n")
    package.write("reports", "import celery\napp = celery.Celery('reports', set_as_current=False)\n")

    assert package.modules() == {"payment": "payment"}


def test_subpackages_are_searched_but_scripts_and_tests_are_not_even_imported(package: Package) -> None:
    package.write("payment/__init__", "")
    package.write("payment/service", SERVICE.format("payment"))
    for module in ("__main__", "conftest", "test_payment", "tests/__init__"):
        package.write(module, "raise SystemExit('imported')")

    assert package.modules() == {"payment": "payment.service"}


def test_one_module_is_searched_alone(package: Package) -> None:
    package.write("payment", SERVICE.format("payment"))
    package.write("driver", SERVICE.format("driver"))

    assert list(find_services(f"{package.name}.driver")) == ["driver"]


def test_a_package_that_does_not_exist_is_named(package: Package) -> None:
    with pytest.raises(DiscoveryError, match=r"no package or module 'nowhere\.at_all' here.*directory that holds it"):
        find_services("nowhere.at_all")


def test_a_package_without_services_says_how_one_is_made(package: Package) -> None:
    with pytest.raises(DiscoveryError, match=rf"No module of '{package.name}' defines a service.*Service\('payment'\)"):
        find_services(package.name)


def test_two_modules_with_one_service_name_are_both_named(package: Package) -> None:
    package.write("payment", SERVICE.format("payment"))
    package.write("charging", SERVICE.format("payment"))

    with pytest.raises(DiscoveryError, match=r"\.charging and .*\.payment both define a service named 'payment'"):
        find_services(package.name)


def test_two_services_in_one_module_are_refused(package: Package) -> None:
    package.write("both", SERVICE.format("payment").replace("app", "one") + SERVICE.format("driver"))

    with pytest.raises(DiscoveryError, match=r"\.both defines payment and driver"):
        find_services(package.name)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import PACKAGE\nfare = 1 / 0", r"ZeroDivisionError: division by zero \(.*payment\.py, line 2\)"),
        ("import no_such_library", r"ModuleNotFoundError: No module named 'no_such_library' \(.*payment\.py, line 1\)"),
        ("def broken(:", r"SyntaxError: .*payment\.py, line 1\)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_line(package: Package, source: str, fault: str) -> None:
    package.write("payment", source)

    with pytest.raises(DiscoveryError, match=rf"{package.name}\.payment cannot be imported: {fault}") as caught:
        find_services(package.name)

    assert "\n" not in str(caught.value)
