"""Benchmark of the service beside other ways to serve the same model; see `bench_serving.py`."""
