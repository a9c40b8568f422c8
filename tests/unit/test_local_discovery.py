"""Which modules of a package are services."""

from pathlib import Path
from textwrap import dedent
from uuid import uuid4

import pytest

from choreo.local.discovery import DiscoveryError, FoundService, find_services, only_package
from choreo.local.discovery import Package as Found

SERVICE = """
from choreo import Event, Service

class OrderPlaced(Event):
    pass

app = Service("{0}", config=None, set_as_current=False)

@app.on(OrderPlaced)
def hear(order: OrderPlaced) -> None: ...
"""
#: Ends the test if it is imported, as a script that publishes would begin to work.
SCRIPT = "raise SystemExit('imported')"


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
        package.write(module, SCRIPT)

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
        ("fare = 1 / 0" + SERVICE, r"ZeroDivisionError: division by zero \(.*payment\.py:1\)"),
        (
            "import no_such_library" + SERVICE,
            r"ModuleNotFoundError: No module named 'no_such_library' \(.*payment\.py:1\)",
        ),
        ("def broken(:", r"SyntaxError: invalid syntax \(.*payment\.py:1\)"),
        (
            "from choreo import Event\n\nclass ChargePayment(Event): ..." + SERVICE,
            r"EventNameError: .*nt\.py:3\)",
        ),
        ("import json\njson.loads('{')" + SERVICE, r"JSONDecodeError: .*payment\.py:2\)"),
        ("import re\n\n\nre.compile('(')" + SERVICE, r"error: .*payment\.py:4\)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_line(package: Package, source: str, fault: str) -> None:
    package.write("payment", source)

    with pytest.raises(DiscoveryError, match=rf"{package.name}\.payment cannot be imported: {fault}") as caught:
        find_services(package.name)

    assert "\n" not in str(caught.value)


#: Ways to make a service, and to declare a handler on it. PACKAGE stands for the package's name.
HOMES = {
    "from the package choreo": "import choreo\napp = choreo.Service('a', config=None)\n@app.on('a.b')\ndef f(e): ...",
    "under another name": (
        "from choreo import Service as S\napp: S = S('a', config=None)\n@app.join('a.b', 'a.c')\ndef f(b, c): ..."
    ),
    "with a story only": (
        "from datetime import timedelta\nfrom choreo import Event, Service\napp = Service('a', config=None)\n"
        "class OrderLost(Event): ...\nclass OrderFound(Event): ...\n"
        "app.story('s', begins=OrderLost, ends=OrderFound, within=timedelta(1))"
    ),
    "as a task": "from choreo import Service\napp = Service('a', config=None)\n@app.task\ndef tidy(): ...",
    "by a call": "from choreo import Service\napp = Service('a', config=None)\napp.on('a.b')(print)",
    "by an alias": "from choreo import Service\napp = Service('a', config=None)\nhear = app.on\nhear('a.b')(print)",
    "in a block": (
        "from choreo import Service\ntry:\n    app = Service('a', config=None)\nfinally:\n    pass\n"
        "for kind in ('a.b', 'a.c'):\n    app.on(kind)(print)"
    ),
    "of a class of one's own": (
        "from PACKAGE.base import Shop\napp = Shop('a', config=None)\n@app.on('a.b')\ndef f(e): ..."
    ),
    "in a factory": "from PACKAGE.base import make\napp = make('a')",
    "by a function of another module": (
        "from choreo import Service\nfrom PACKAGE.base import declare\napp = Service('a', config=None)\ndeclare(app)"
    ),
    "in a module that is included": "from choreo import Service\napp = Service('a', config=None, include=['handlers'])",
}
BASE = """
from choreo import Service

class Shop(Service):
    pass

def declare(app):
    @app.on("a.b")
    def hear(event): ...

def make(name):
    app = Service(name, config=None)
    declare(app)
    @app.on("a.c")
    def hear_too(event): ...
    return app
"""


@pytest.mark.parametrize("way", HOMES)
def test_a_service_is_found_however_it_is_made(package: Package, way: str) -> None:
    package.write("base", BASE)
    package.write("home", HOMES[way])

    known = Found(package.name)

    assert known.modules == [f"{package.name}.home"]
    assert known.homes == {(f"{package.name}.home", "app")}


def test_a_service_whose_handlers_are_declared_elsewhere_is_found(package: Package) -> None:
    package.write("__init__", "from .payment import app")
    package.write("payment", "from choreo import Service\napp = Service('payment', config=None)")
    package.write("charging", "from . import app\n@app.on('order.placed')\ndef charge(order): ...")

    assert Found(package.name).homes == {(f"{package.name}.payment", "app")}


@pytest.mark.parametrize(
    "source",
    [
        "from PACKAGE.payment import app\nfor _ in range(9): app.publish(1)",
        "from choreo import Service\napp = Service('seed', config=None)\napp.publish(1)",
        "import choreo\nweb = choreo.Service(name='web')\nnames = ', '.join(['a'])\nprint(names)",
        "from PACKAGE.payment import OrderPlaced, app\norders = [OrderPlaced()]\napp.publish_many(orders)",
        "import os\npath = os.path.join('a', 'b')\nlogger = print(path)",
        "class Bus:\n    def on(self, name): ...\n",
    ],
)
def test_a_module_without_handlers_is_not_run(package: Package, source: str) -> None:
    package.write("payment", SERVICE.format("payment"))
    package.write("other", f"{source}\n{SCRIPT}")

    assert package.modules() == {"payment": "payment"}


def test_a_service_that_only_publishes_is_named(package: Package) -> None:
    package.write("web", f"from choreo import Service\napp = Service('web')\n{SCRIPT}")

    assert Found(package.name).silent == {"web": f"{package.name}.web"}
    with pytest.raises(DiscoveryError, match=rf"there is nothing to run: web \({package.name}\.web\) can only publish"):
        find_services(package.name)


def test_of_several_versions_of_an_event_the_newest_is_found(package: Package) -> None:
    package.write("a_new", "from choreo import Event\nclass OrderPlaced(Event, version=10): ...\n")
    package.write("b_old", 'from choreo import Event\nclass OrderOld(Event, type="order.placed", version=9): ...\n')
    package.write("c_first", 'from choreo import Event\nclass OrderFirst(Event, type="order.placed"): ...\n')

    assert Found(package.name).events == {"order.placed": (f"{package.name}.a_new", "OrderPlaced")}


def test_events_are_read_from_the_source(package: Package) -> None:
    package.write(
        "events",
        """
        from choreo import Event
        raise SystemExit("imported")

        class Base(Event, abstract=True): ...
        class OrderPlaced(Base): ...
        class OrderSent(Event, type="order.left_the_house"): ...
        class Order: ...
        """,
    )
    package.write("payment", "from .events import OrderPlaced as Placed\nimport json\n")

    events = f"{package.name}.events"
    assert Found(package.name).events == {
        "order.placed": (events, "OrderPlaced"),
        "order.left_the_house": (events, "OrderSent"),
    }
    assert Found(f"{package.name}.payment").events == {"order.placed": (events, "OrderPlaced")}


def test_the_only_package_of_a_directory_need_not_be_named(package: Package) -> None:
    here = package.directory.parent
    with pytest.raises(DiscoveryError, match="No package in this directory has services"):
        only_package(here)

    package.write("payment", SERVICE.format("payment"))
    (here / "seed.py").write_text(SCRIPT)
    assert only_package(here) == package.name

    (package.directory / "__init__.py").unlink()
    assert only_package(here) == package.name, "a package needs no __init__.py"

    other = Package(here)
    other.write("payment", SERVICE.format("payment"))
    with pytest.raises(DiscoveryError, match=r"Several packages here have services: shop_\w+, shop_\w+\. Name one"):
        only_package(here)
