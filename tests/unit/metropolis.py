"""A platform of 10 services and 30 events, as large as many get, made of descriptions alone."""

from itertools import count

from choreo.declare.description import HandlerDescription, ServiceDescription

THINGS = "basket order payment parcel invoice customer supplier stock refund review".split()
FATES = ("opened", "changed", "closed_by_an_operator")
SERVICES = (
    "storefront checkout billing warehouse shipping accounts procurement recommendations notifications analytics"
).split()
EVENTS = [f"{thing}.{fate}" for thing in THINGS for fate in FATES]


def metropolis() -> list[ServiceDescription]:
    """Ten services: each announces three types, and hears four or five of others; one joins, one hears everything."""
    number = count()
    services = []
    for place, name in enumerate(SERVICES):
        thing, own = THINGS[place], EVENTS[3 * place : 3 * place + 3]
        heard = [EVENTS[(3 * place + 5 * next(number)) % 30] for _ in range(4)]
        handlers = [
            HandlerDescription(
                f"{name}.follow_{kind.replace('.', '_')}",
                (kind,),
                (own[turn % 3],),
                reads={kind: (f"{thing}_id", "customer_id")},
            )
            for turn, kind in enumerate(dict.fromkeys(heard))
            if kind not in own
        ]
        if place % 3 == 0:
            parts = [EVENTS[(3 * place + 7) % 30], EVENTS[(3 * place + 13) % 30]]
            unless = [EVENTS[(3 * place + 20) % 30]]
            join = {"parts": parts, "unless": unless, "within": 60}
            handlers.append(
                HandlerDescription(
                    f"{name}.bring_together", (*parts, *unless), (own[0],), (own[2],), dict.fromkeys(parts), join
                )
            )
        services.append(ServiceDescription(name, tuple(handlers), own[:1] if place < 2 else None))
    everything = HandlerDescription("analytics.count_event", ("#",), (), reads={"#": None})
    last = services.pop()
    return [*services, ServiceDescription(last.service, (*last.handlers, everything))]
