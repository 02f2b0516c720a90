"""Continuous batching on one instance, simulated event by event."""
