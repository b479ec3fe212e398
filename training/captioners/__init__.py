"""Table 3 of the paper: every captioner, trained with and without h-detach, and what it scores."""
