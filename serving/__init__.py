"""The caption service: photographs in over HTTP, captions out.

`python -m serving --checkpoint DIR` starts it, `serving.app.create_app(settings)` is the same for
any ASGI server. A request's path is `app.py`, `captions.py`, `batching.py`. Images are decoded in
processes that can be killed; the model runs in one thread of the serving process.
"""

from captioner.threads import wait_passively

wait_passively()  # before torch is loaded
