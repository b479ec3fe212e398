"""The contestant `fastapi`: the model behind one plain route, as one would write it first.

MODEL=DIR THREADS=2 uvicorn serving_bench.plain_route:app
"""

import os
from io import BytesIO
from typing import Annotated

from fastapi import FastAPI, File
from PIL import Image

from captioner.captioner import load

captioner = load(os.environ["MODEL"], threads=int(os.environ["THREADS"]))
app = FastAPI()


@app.post("/caption")
def caption(image: Annotated[bytes, File()]) -> dict[str, str]:
    """FastAPI runs this in a thread of its pool, one photograph at a time in each."""
    with Image.open(BytesIO(image)) as picture:
        return {"caption": captioner.caption([picture])[0].text}
