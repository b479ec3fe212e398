"""The caption service: photographs in over HTTP, captions out.

`python -m serving --checkpoint DIR` starts it; `serving.app.create_app(settings)` gives the same to
any ASGI server. From a request to its words are four files: `app.py` (what a request passes),
`routes/captions.py` (its body, its place, its answer), `batching.py` (the batch it is in) and the
library's `captioner/search.py`. Images are decoded in processes that can be killed; the model runs
in one thread of the serving process.
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded
