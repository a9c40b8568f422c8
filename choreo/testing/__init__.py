"""For users' tests."""

from choreo.testing.announced import announced

__all__ = ["announced"]
