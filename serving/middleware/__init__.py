"""What a request passes before any route sees it: the connection, its limits, keys and rates."""
