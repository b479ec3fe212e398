"""Decoding of uploads: their bytes are checked first, then decoded in separate processes."""
