"""The contestant `litserve`: the model behind LitServe, with its batching.

MODEL=DIR THREADS=2 MAX_BATCH=8 python -m serving_bench.litserve_route PORT
"""

import os
import sys
from io import BytesIO
from typing import Any

import numpy as np
from fastapi import Request
from PIL import Image

from captioner.captioner import Captioner, load
from captioner.search_config import SearchConfig

try:
    import litserve
except ModuleNotFoundError:
    raise SystemExit(
        "litserve is not installed; install it into a folder and name it by LITSERVE"
    ) from None

WINDOW_SECONDS = 0.005  # as the service's


class CaptionApi(litserve.LitAPI):
    captioner: Captioner

    def setup(self, device: Any) -> None:  # noqa: ARG002 - the runtime computes on the CPU
        self.captioner = load(os.environ["MODEL"], threads=int(os.environ["THREADS"]))

    def decode_request(self, request: Request) -> np.ndarray:
        with Image.open(BytesIO(request["image"].file.read())) as picture:
            return self.captioner.preprocessing.read(picture)

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs

    def predict(self, pixels: list[np.ndarray]) -> list[str]:
        found = self.captioner.captions_of_pixels(pixels, SearchConfig())
        return [captions[0].text for captions in found]

    def unbatch(self, output: list[str]) -> list[str]:
        return output

    def encode_response(self, output: str) -> dict[str, str]:
        return {"caption": output}


def main() -> None:
    api = CaptionApi(
        max_batch_size=int(os.environ["MAX_BATCH"]),
        batch_timeout=WINDOW_SECONDS,
        api_path="/caption",
    )
    server = litserve.LitServer(api, accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)


if __name__ == "__main__":
    main()
