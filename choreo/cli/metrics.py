"""`choreo metrics`: prints or serves the metrics of a platform for Prometheus."""

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from choreo.cli.app import say, speaking
from choreo.service import Service

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


@click.command(context_settings={"show_default": True})
@click.option("--port", type=click.IntRange(1, 65535), help="Serve them here, until the command is stopped.")
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="With --port; 0.0.0.0 is every address.")
@speaking
def metrics(app: Service, port: int | None, host: str) -> None:
    """
    Print or serve metrics of the platform for Prometheus.

    The metrics are what Flower and celery-exporter do not know: what waits for each handler and since when, dead
    letters, pending joins, the schedule, live workers, events that nobody hears, the store's memory. With --port they
    are served, and read anew for each request. Nobody is asked for a password: let only Prometheus reach the port.

    \b
    choreo metrics
    choreo metrics --port 9808
    """
    registry = _registry(app)
    if port is None:
        # Errors of the broker and the store are explained, as those of the other commands are.
        app.runtime.store.ping()
        say(_text(registry), nl=False)
        return
    _serve(registry, host, port)


def _registry(app: Service) -> "CollectorRegistry":
    try:
        from prometheus_client import CollectorRegistry
    except ImportError as error:
        raise click.ClickException(
            "choreo metrics needs prometheus_client. Install it: pip install 'celery-choreo[metrics]'."
        ) from error
    from choreo.observe.prometheus import ChoreoCollector

    registry = CollectorRegistry()
    registry.register(ChoreoCollector(app.runtime.new_readings()))
    return registry


def _text(registry: "CollectorRegistry") -> str:
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()


def _serve(registry: "CollectorRegistry", host: str, port: int) -> None:
    from prometheus_client import start_http_server

    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise click.ClickException(f"{host}:{port}: {error.strerror}. Name another one: --port, --host.") from error
    click.echo(f"http://{host}:{port}/metrics serves the metrics. Ctrl-C ends it.")
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    server.shutdown()
