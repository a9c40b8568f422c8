"""A second service that hears the same event."""

from events import DishOrdered

from choreo import Context, Service

app = Service("counter")


@app.on(DishOrdered)
def note_order(order: DishOrdered, context: Context) -> None:
    print(f"noted {context.subject}", flush=True)
