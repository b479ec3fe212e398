"""The benchmarks of the paper: their tasks, and the one loop that trains on all of them."""
