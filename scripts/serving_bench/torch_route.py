"""The contestant `torch`: a plain route around PyTorch and a textbook's search, no runtime.

It is what one writes without this library: the network in PyTorch, a search of one photograph at a
time, one call for each request.

CHECKPOINT=DIR THREADS=2 uvicorn serving_bench.torch_route:app
"""

import os
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import torch
from fastapi import FastAPI, File
from inference.textbook import Textbook
from PIL import Image, ImageOps

from captioner.checkpoint import load_checkpoint

folder = Path(os.environ["CHECKPOINT"])
checkpoint = load_checkpoint(folder)
encoder, preprocessing = checkpoint.encoder, checkpoint.encoder.preprocessing
decoder: Any = checkpoint.decoder  # of soft attention, as the textbook's
textbook = Textbook(folder, int(os.environ["THREADS"]))
app = FastAPI()


@app.post("/caption")
@torch.no_grad()
def caption(image: Annotated[bytes, File()]) -> dict[str, str]:
    """FastAPI runs this in a thread of its pool, one photograph at a time in each."""
    with Image.open(BytesIO(image)) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    pixels = torch.from_numpy(preprocessing.resize(upright)).permute(2, 0, 1)
    features = encoder(preprocessing.normalise(pixels).unsqueeze(0))
    items = None
    if decoder.attribute_items is not None:
        items = decoder.attribute_items(features, decoder.embedding)[0][0]
    words = textbook.caption(features.grid[0], items)
    return {"caption": " ".join(checkpoint.vocabulary.decode(words))}
