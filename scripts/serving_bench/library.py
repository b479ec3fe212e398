"""The library's own throughput: photographs from a file's bytes to captions, in batches.

python -m serving_bench.library PHOTO SECONDS; MODEL, THREADS and MAX_BATCH as variables
"""

import os
import sys
import time
from io import BytesIO
from pathlib import Path

from captioner.captioner import load


def main() -> None:
    photo, seconds = Path(sys.argv[1]).read_bytes(), float(sys.argv[2])
    batch = int(os.environ["MAX_BATCH"])
    captioner = load(os.environ["MODEL"], threads=int(os.environ["THREADS"]))
    captioner.caption([BytesIO(photo)] * batch)
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        captioner.caption([BytesIO(photo)] * batch, batch_size=batch)
        done += batch
    print(done / passed)


if __name__ == "__main__":
    main()
