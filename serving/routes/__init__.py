"""Routes of the service: its own interface, those of other services, and its pages."""
