"""Engines run a recurrence over time. `scan` runs any, on the backend's own loop."""
