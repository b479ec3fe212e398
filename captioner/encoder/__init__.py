"""Image encoders: preprocessing, the network, and the store of its features.

Shape letters: B images, P positions of the grid, D features; h and w are an image's sides.
"""
