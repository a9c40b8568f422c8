"""JSON Schemas of events: what is written, what a reader takes, and whether the one fits the other."""
