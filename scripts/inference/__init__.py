"""Parts of the benchmark of inference: contestants, models, limits and the report.

Shape letters: B images, K beams, P positions of the grid, D features, H hidden, V words. Earlier
commits import this too, so it imports nothing of the project.
"""

BEAMS, STEPS, GRID = 3, 20, 7  # of the search that all contestants do
