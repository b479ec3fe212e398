"""Steps of a session on a GPU; `gpu_session.py` runs each in a process of its own."""
