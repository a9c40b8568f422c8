"""What can happen in the kitchen of these tests."""

from choreo import Event


class DishOrdered(Event):
    """Somebody ordered a dish, which says how cooking it goes; see kitchen.py."""

    dish: str
