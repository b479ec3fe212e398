"""The names of the inputs and outputs of a captioner's graphs, and of their files.

What writes graphs and what runs them agree on these. Fields of features, memory and state follow
their prefix, as in `memory.keys`.
"""

ENCODER, PREPARE, STEP = "encoder.onnx", "prepare.onnx", "step.onnx"
OPENVINO_ENCODER = "encoder.xml"  # where it was quantised for that library

PIXELS = "pixels"
FEATURES, MEMORY, STATE, NEXT = "features.", "memory.", "state.", "next."
WORDS, PARENTS, COUNT, WANTED = "words", "parents", "count", "wanted"
LOG_PROBS, CANDIDATES, WANTED_LOG_PROBS = "log_probs", "candidates", "wanted_log_probs"
ATTENTION = "attention"  # over the positions of the grid, then the attributes
ATTRIBUTES = "attributes."  # words and probabilities, which come with the memory
