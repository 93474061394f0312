"""Pingup: a telemetry server built around an MQTT broker, and the agent that reports to it."""

__version__ = "0.1.0"
