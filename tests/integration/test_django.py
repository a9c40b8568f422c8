"""A Django project as Celery's guide has it: commands read its settings, as its services do. On a real Redis."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import celery
import django
import pytest

import choreo
from tests.waiting import DEADLINE

FILES = {
    "shop/__init__.py": "",
    "shop/settings.py": """
        import os

        SECRET_KEY = "only for a test"
        INSTALLED_APPS = ["orders"]
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        USE_TZ = True

        CELERY_BROKER_URL = os.environ["SHOP_BROKER"]
        CELERY_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": "shop:"}
        CELERY_CHOREO_NAMESPACE = os.environ["SHOP_NAMESPACE"]
    """,
    "shop/payment.py": """
        import os

        import django

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
        django.setup()

        from choreo import Envelope, Service
        from orders.models import Order

        app = Service("payment")
        app.config_from_object("django.conf:settings", namespace="CELERY")


        @app.on("order.placed")
        def charge_customer(event: Envelope) -> None:
            Order.objects.filter(number=event.subject).update(is_charged=True)
    """,
    "orders/__init__.py": "",
    "orders/models.py": """
        from django.db import models


        class Order(models.Model):
            number = models.TextField()
            is_charged = models.BooleanField(default=False)
    """,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    return tmp_path


@pytest.fixture
def run(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs Python in the project, where choreo is installed, and no celeryconfig.py beside it."""
    library = tmp_path_factory.mktemp("library")
    (library / "choreo").symlink_to(Path(choreo.__file__).parent)
    packages = [str(Path(module.__file__).parents[1]) for module in (celery, django)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHOREO_", "CELERY_"))}

    def python(*arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        # -S: without the links that an editable install adds to the path.
        done = subprocess.run(
            [sys.executable, "-S", *arguments],
            cwd=project,
            env=kept | {"PYTHONPATH": os.pathsep.join([str(library), *packages])} | variables,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert done.returncode == code, done.stderr
        return done

    return python


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (["-A", "shop.payment"], {}),
        (["-A", "shop.payment:app"], {"CHOREO_BROKER_URL": "redis://127.0.0.1:1"}),
        ([], {"CHOREO_APP": "shop.payment"}),
        ([], {"DJANGO_SETTINGS_MODULE": "shop.settings"}),
    ],
    ids=["-A", "-A with an attribute", "CHOREO_APP", "DJANGO_SETTINGS_MODULE"],
)
def test_commands_read_the_settings_of_the_project(run, redis_url, namespace, options, variables):
    project = {"SHOP_BROKER": redis_url, "SHOP_NAMESPACE": namespace}
    run("-c", "from shop.payment import app; app.runtime.introduce()", **project)

    def said(*command: str) -> str:
        return run("-m", "choreo", *options, *command, **project, **variables).stdout

    handlers = [json.loads(line)["handler"] for line in said("schedule", "--all", "--json").splitlines()]
    assert handlers == ["payment", "payment.charge_customer", "payment.dead_letters", "delayed"]
    assert said("dead-letters", "list") == "No dead letters.\n"
    assert said("joins", "list") == ""


def test_settings_that_django_cannot_read_are_one_line(run):
    done = run("-m", "choreo", "schedule", DJANGO_SETTINGS_MODULE="shop.setings", code=1)

    assert "No module named 'shop.setings'" in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
