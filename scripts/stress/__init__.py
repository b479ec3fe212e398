"""What `stress_serving.py` does to a caption service, one module for each kind of trouble."""
