"""docker-compose.yml and the Dockerfile: all that can be known about them without a Docker engine."""

import fnmatch
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from choreo import Service
from choreo.local.discovery import find_services

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def words(command: str | list[str]) -> list[str]:
    """A command as a list of words, with Compose's `$$` for a `$`."""
    return [word.replace("$$", "$") for word in (shlex.split(command) if isinstance(command, str) else command)]


def option(command: list[str], name: str) -> str:
    """What follows an option, which must be there once."""
    (place,) = [place for place, word in enumerate(command) if word == name]
    return command[place + 1]


def is_worker(service: dict[str, Any]) -> bool:
    command = words(service.get("command", []))
    return command[:1] == ["celery"] and "worker" in command


def app_of(target: str) -> Service:
    """The app that `celery -A` would find."""
    module, _, attribute = target.partition(":")
    app = getattr(__import__(module, fromlist=["app"]), attribute or "app")
    assert isinstance(app, Service), f"{target} is {app!r}"
    return app


WORKERS = [name for name, service in SERVICES.items() if is_worker(service)]
CELERY = [name for name, service in SERVICES.items() if words(service.get("command", []))[:1] == ["celery"]]


def test_the_file_follows_the_compose_specification() -> None:
    command = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_service_of_the_handlers_has_exactly_one_worker() -> None:
    workers = sorted(app_of(option(words(SERVICES[name]["command"]), "-A")).service_name for name in WORKERS)

    assert workers == sorted(find_services("handlers"))


@pytest.mark.parametrize("name", CELERY)
def test_what_celery_is_told_to_load_is_a_service(name: str) -> None:
    assert app_of(option(words(SERVICES[name]["command"]), "-A")).service_name


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_named_after_its_service(name: str) -> None:
    command = words(SERVICES[name]["command"])
    app = app_of(option(command, "-A"))

    # %h is what keeps apart the containers of `--scale`.
    assert option(command, "-n") == f"{app.service_name}@%h"
    assert name == app.service_name


@pytest.mark.parametrize("name", WORKERS)
def test_the_probe_asks_the_worker_of_its_own_container(name: str) -> None:
    command, probe = words(SERVICES[name]["command"]), words(SERVICES[name]["healthcheck"]["test"])

    assert probe[:1] == ["celery"]
    assert " inspect ping " in " ".join(probe)
    assert option(probe, "-A") == option(command, "-A")
    assert option(probe, "-d") == option(command, "-n").replace("%h", "$HOSTNAME")
    # A `$` that Compose itself would fill in, with the name of the machine that Compose runs on.
    assert "$$HOSTNAME" in SERVICES[name]["healthcheck"]["test"]
    assert float(option(probe, "--timeout")) < seconds(SERVICES[name]["healthcheck"]["timeout"])


def seconds(duration: str) -> float:
    (number,) = re.fullmatch(r"(\d+)s", duration).groups()  # type: ignore[union-attr]
    return float(number)


def test_what_a_service_waits_for_is_there_and_says_when_it_is_healthy() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES, f"{name} waits for {needed}"
            assert how["condition"] == "service_healthy", f"{name} does not wait until {needed} is healthy"
            assert "healthcheck" in SERVICES[needed], f"{needed} cannot become healthy for {name}"
            if "profiles" in SERVICES[needed]:
                assert how["required"] is False, f"{name} needs {needed}, which only runs with a profile"


@pytest.mark.parametrize("name", CELERY)
def test_what_talks_to_the_broker_waits_for_whichever_it_is(name: str) -> None:
    assert {"redis", "rabbitmq"} <= SERVICES[name]["depends_on"].keys()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_checks_its_health_and_stops_and_restarts_properly(name: str) -> None:
    service = SERVICES[name]

    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    if name in CELERY:
        assert service["init"] is True
    if name in WORKERS:
        # Docker's own 10 s would cut handlers short.
        assert seconds(service["stop_grace_period"]) >= 30


def test_nothing_is_reachable_from_other_machines() -> None:
    for name, service in SERVICES.items():
        assert "network_mode" not in service, name
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), f"{name} is published on {port}"


def test_flower_has_a_password_and_nobody_has_put_it_into_the_file() -> None:
    assert re.fullmatch(r"\$\{FLOWER_BASIC_AUTH:\?.+\}", SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"])


def test_redis_keeps_what_it_was_given() -> None:
    command = words(SERVICES["redis"]["command"])

    assert option(command, "--appendonly") == "yes"
    assert option(command, "--maxmemory-policy") == "noeviction"
    assert any(volume.endswith(":/data") for volume in SERVICES["redis"]["volumes"])


@pytest.mark.parametrize("name", CELERY)
def test_one_variable_moves_the_broker_to_rabbitmq_and_the_store_stays(name: str) -> None:
    environment = SERVICES[name]["environment"]

    assert environment["CHOREO_BROKER_URL"] == "${CHOREO_BROKER_URL:-redis://redis:6379/0}"
    assert environment["CHOREO_STORE_URL"] == "redis://redis:6379/0"
    assert SERVICES["rabbitmq"]["profiles"] == ["rabbitmq"]


def test_the_rabbitmq_command_in_the_comment_uses_the_user_of_the_file() -> None:
    user = SERVICES["rabbitmq"]["environment"]
    url = f"amqp://{user['RABBITMQ_DEFAULT_USER']}:{user['RABBITMQ_DEFAULT_PASS']}@rabbitmq:5672//"

    assert f"CHOREO_BROKER_URL={url} docker compose --profile rabbitmq up" in (ROOT / "docker-compose.yml").read_text()


def test_no_two_services_share_a_volume() -> None:
    used = [volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]

    assert sorted(used) == sorted(set(used)) == sorted(COMPOSE["volumes"])


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_keeps_its_data_in_its_volume(name: str) -> None:
    mounted = [volume.partition(":")[2] for volume in SERVICES[name]["volumes"]]

    assert mounted == [SERVICES[name]["environment"]["CHOREO_DATA"]]


def test_the_image_runs_without_rights() -> None:
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)

    assert user not in ("root", "0")
    assert f"--uid 10001 --no-create-home {user}" in DOCKERFILE
    assert f"install --directory --owner {user} {SERVICES['payment']['environment']['CHOREO_DATA']}" in DOCKERFILE
    assert DOCKERFILE.index("RUN pip install") < DOCKERFILE.index("\nUSER ")


def copied() -> list[str]:
    lines = re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
    return [source.rstrip("/") for line in lines for source in line.split()[:-1]]


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    ignored = [line for line in lines if not line.startswith("!")]
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]

    assert ignored[0] == "*", "whatever is not named stays out: .env, .git, .venv"
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), f"{source} is ignored"
    assert sorted(kept) == sorted(copied()), "nothing is sent to the engine that the image does not copy"


def test_the_image_has_what_the_workers_and_flower_need() -> None:
    assert {"choreo", "handlers", "celeryconfig.py", "flowerconfig.py", "pyproject.toml"} <= set(copied())
    assert "pip install --no-cache-dir '.[flower,metrics]'" in DOCKERFILE


def test_the_metrics_are_served_where_they_are_asked_for() -> None:
    metrics = SERVICES["metrics"]
    command = words(metrics["command"])

    assert command[:2] == ["choreo", "metrics"]
    assert option(command, "--host") == "0.0.0.0", "from outside of its container"
    assert metrics["ports"] == [f"127.0.0.1:{option(command, '--port')}:{option(command, '--port')}"]
    assert f"http://127.0.0.1:{option(command, '--port')}/metrics" in " ".join(metrics["healthcheck"]["test"])
