"""What the service answers: its own interface, those of others, and its pages."""
