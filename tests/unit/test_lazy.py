"""Imports: a program pays only for the parts that it uses. By names of modules, not by time: see `python -m bench`."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import choreo
import choreo.store

ROOT = Path(__file__).parents[2]


def imported_by(code: str) -> set[str]:
    """The modules that a fresh process has imported after this code."""
    code = f"import sys\n{code}\nprint('imported', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("imported")[2].split())


def roots(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names)


def rooms(modules: set[str]) -> set[str]:
    return {module.split(".")[1] for module in modules if module.startswith("choreo.")}


def test_a_service_imports_no_package_that_celery_does_not() -> None:
    celerys, ours = imported_by("import celery; celery.Celery"), imported_by("import choreo; choreo.Service")

    assert roots(ours) - roots(celerys) == {"choreo"}
    assert rooms(ours) <= {
        "announcement",
        "cached",
        "declare",
        "durations",
        "errors",
        "events",
        "lazy",
        "masking",
        "printing",
        "runtime",
        "service",
        "store",
    }
    assert {name for name in ours - celerys if name.startswith(("celery.", "kombu."))} == set()
    assert len([name for name in ours if name.startswith("choreo")]) < 27, "more of choreo than declarations need"


def test_nothing_is_imported_before_a_name_is_read() -> None:
    assert {name for name in imported_by("import choreo") if name.startswith("choreo")} == {"choreo"}


def test_an_event_needs_no_celery() -> None:
    modules = imported_by("import choreo\nclass OrderPlaced(choreo.Event): total_cents: int")

    assert "pydantic" in modules
    assert not {"celery", "kombu", "redis", "amqp"} & modules


def test_a_service_with_handlers_imports_neither_a_broker_nor_a_worker() -> None:
    modules = imported_by("import handlers.payment")

    assert not {"redis", "kombu.transport.redis", "kombu.transport.pyamqp"} & modules
    assert not {"broker", "fast", "operate", "redis_client", "worker"} & rooms(modules)


def test_publishing_imports_no_worker() -> None:
    modules = imported_by(
        "import choreo\n"
        "app = choreo.Service('shop', broker='memory://', choreo_store_url='memory:', config=None)\n"
        "class OrderPlaced(choreo.Event): total_cents: int\n"
        "app.publish(OrderPlaced(total_cents=1))"
    )

    assert not {"fast", "operate", "worker"} & rooms(modules)
    assert "celery.worker.consumer" not in modules


@pytest.mark.parametrize("lane", [True, False])
def test_a_command_that_asks_redis_imports_neither_pydantic_nor_a_transport(lane: bool) -> None:
    modules = imported_by(
        "import choreo.cli.dead_letters, choreo.cli.joins, choreo.cli.schedule, choreo.cli.stories\n"
        "from choreo.cli.app import Where, command_line_service\n"
        f"app = command_line_service(Where(broker='redis://127.0.0.1:1/0')); app.conf.choreo_fast_lane = {lane}\n"
        "app.dead_letters, app.joins, app.stories"
    )

    assert "redis" in modules
    assert not {"pydantic", "kombu.transport.redis", "celery.worker.consumer"} & modules
    assert not {"local", "worker"} & rooms(modules)
    assert not {"choreo.cli.up", "choreo.cli.publish"} & modules


def test_only_a_table_needs_rich() -> None:
    run = "from click.testing import CliRunner; from choreo.cli import choreo; import sys\n"
    plain = f"{run}assert not CliRunner().invoke(choreo, ['map', '--package', 'handlers', '--json']).exception"
    table = f"{run}assert not CliRunner().invoke(choreo, ['map', '--package', 'handlers']).exception"

    assert "rich" not in imported_by(plain)
    modules = imported_by(table)
    assert "rich" in modules
    assert not {"pygments", "markdown_it"} & roots(modules)


@pytest.mark.parametrize("command", ["top", "stuck"])
def test_a_command_that_looks_at_the_platform_imports_neither_pydantic_nor_a_worker(command: str) -> None:
    modules = imported_by(
        f"import choreo.cli.{command}\n"
        "from choreo.cli.app import Where, command_line_service\n"
        "app = command_line_service(Where(broker='redis://127.0.0.1:1/0')); app.observe.watch()"
    )

    assert "rich" in modules
    assert not {"pydantic", "celery.worker.consumer"} & modules
    assert not {"local", "worker"} & rooms(modules)


def test_a_command_without_a_table_does_not_import_rich() -> None:
    assert "rich" not in imported_by("import choreo.cli.publish, choreo.cli.up, choreo.cli.completion")


def test_help_lists_every_command() -> None:
    done = subprocess.run([sys.executable, "-m", "choreo", "--help"], capture_output=True, text=True, timeout=60)

    listed = [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed == [
        "can-deploy",
        "check",
        "dead-letters",
        "effects",
        "events",
        "joins",
        "map",
        "metrics",
        "pause",
        "publish",
        "repairs",
        "rerun",
        "resume",
        "schedule",
        "stories",
        "stuck",
        "top",
        "topology",
        "trace",
        "up",
        "web",
        "why-not",
    ]


PACKAGES = pytest.mark.parametrize("package", [choreo, choreo.store], ids=lambda package: package.__name__)


@PACKAGES
def test_every_public_name_is_imported_when_it_is_read(package: object) -> None:
    everything: dict[str, object] = {}
    exec(f"from {package.__name__} import *", everything)

    assert set(package.__all__) == everything.keys() - {"__builtins__"}
    for name in package.__all__:
        home = importlib.import_module(package._HOMES[name])
        assert everything[name] is getattr(package, name) is getattr(home, name)


@PACKAGES
def test_type_checkers_see_the_same_names_at_the_same_places(package: object) -> None:
    tree = ast.parse(Path(package.__file__).read_text())
    seen = {
        alias.name: node.module
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert seen == package._HOMES
    assert sorted(seen) == sorted(package.__all__)


def test_a_name_that_does_not_exist_is_an_error_as_ever() -> None:
    with pytest.raises(AttributeError, match=r"module 'choreo' has no attribute 'Servce'"):
        choreo.Servce  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Servce'"):
        exec("from choreo import Servce")


def test_dir_lists_every_public_name() -> None:
    assert set(choreo.__all__) <= set(dir(choreo))
