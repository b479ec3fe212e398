"""A cluster of two Ray nodes on one machine, and what is checked on it."""
