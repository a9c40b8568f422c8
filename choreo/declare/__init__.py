"""Declarations: pure data, made and checked when a service's module is imported."""
