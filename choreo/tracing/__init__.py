"""Spans of OpenTelemetry for events: see docs/observability.md. Imported only where OpenTelemetry is installed."""
