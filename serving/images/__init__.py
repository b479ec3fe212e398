"""Uploads become pictures here: looked at as bytes first, then decoded where it can do no harm."""
