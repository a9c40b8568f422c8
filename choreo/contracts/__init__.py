"""Contracts: how the events of two states of the code differ, whom a change hurts, and what may be deployed."""
