"""Connections: their limits, and requests that are refused before the application is asked."""
