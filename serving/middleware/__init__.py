"""ASGI middleware in front of the routes: connection limits, keys and rates."""
