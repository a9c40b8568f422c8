"""Two states of the code in one process: events and readers that are made of their fields."""

from typing import Any

from pydantic import BaseModel, create_model

from choreo import DeclarationError, Event, Service
from choreo.contracts.contract import Contract, Contracts
from choreo.declare.models import described_models
from tests.unit.stage import service


def event(*, version: int = 1, upcasters: Any = (), readable_by: int | None = None, **fields: Any) -> type[Event]:
    """The class PaymentCharged with these fields: name=(annotation, default)."""
    options: dict[str, Any] = {"version": version, "upcasters": list(upcasters)}
    options |= {"readable_by": readable_by} if readable_by is not None else {}
    return create_model("PaymentCharged", __base__=Event, __cls_kwargs__=options, **fields)


def view(**fields: Any) -> type[BaseModel]:
    """A view with these fields."""
    return create_model("Spending", **fields)


def payment(announced: type[Event]) -> Service:
    """The service that announces the event."""
    return service("payment", announces=[announced])


def loyalty(heard: Any, read: type[BaseModel] | None = None, name: str = "loyalty") -> Service:
    """A service with one handler, which reads the event with its class or with a view."""
    app = service(name)

    def award_points(spending): ...

    award_points.__annotations__ = {"spending": read or heard, "return": None}
    try:
        app.on(heard)(award_points)
    except DeclarationError:  # a view that does not fit this class: its program does not have it
        app.on(heard.event_type)(award_points)
    return app


def state(announced: type[Event] | None, *apps: Service, origin: str = "main") -> Contracts:
    """The contracts of these services, and of the class that payment announces."""
    events = [] if announced is None else [Contract(described_models([announced])[announced])]
    places = {("payment.charged", step.version): step.place for step in getattr(announced, "event_upcasters", ())}
    return Contracts(origin, events, [app.describe() for app in apps], places)
