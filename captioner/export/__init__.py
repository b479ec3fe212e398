"""Export: a checkpoint as a folder of graphs that run without PyTorch."""
