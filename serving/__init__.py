"""Caption service: photographs in over HTTP, captions out.

`python -m serving --checkpoint DIR` starts it; `serving.app.create_app(settings)` is the
application for any ASGI server. A request goes through five files: `app.py` (middleware),
`routes/captions.py` (the route), `routes/captioning.py` (its body, its place in the queue),
`batching.py` (its batch) and the library's `captioner/search.py`. Images are decoded in processes
that can be killed; the model runs in threads of the serving process.
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded
