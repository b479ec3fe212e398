"""Stress scenarios of `stress_serving.py`, one module for each kind of trouble."""
