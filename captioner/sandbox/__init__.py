"""Decoding of pictures that may be hostile: checks, limits, and processes that can be killed."""
