"""Tiny services that do what the event tells them to, and note what they did."""
