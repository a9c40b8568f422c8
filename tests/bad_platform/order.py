"""Places orders. It commands the payment service, and waits for its answer."""

from choreo import Service
from tests.bad_platform.events import ChargePayment, OrderConfirmed, OrderPlaced, PaymentCharged

app = Service("order", announces=[OrderPlaced], config=None)  # finds CH601


@app.on(OrderPlaced)
def demand_payment(order: OrderPlaced) -> ChargePayment:  # finds CH603
    """Tell the payment service what to do."""
    return ChargePayment(order_id=order.order_id)


@app.on(PaymentCharged)
def confirm(charged: PaymentCharged) -> OrderConfirmed:  # finds CH603
    """Hear the answer."""
    return OrderConfirmed(order_id=charged.order_id)


async def place(order_id: str, total_cents: int) -> None:
    """Stop the event loop of the web application, or announce nothing."""
    app.publish(OrderPlaced(order_id=order_id, total_cents=total_cents))  # finds CH902
    await app.publish(OrderPlaced(order_id=order_id, total_cents=total_cents))  # finds CH901
