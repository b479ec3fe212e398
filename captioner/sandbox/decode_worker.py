"""Worker process that decodes uploads: small, without torch, limited by the kernel, killable.

`DecodePool` starts it with one end of a socket pair as standard input. Each request is a JSON
header and the bytes of an upload; each answer is a JSON header and the bytes of the resized
picture. Nothing is pickled, and no text of a file or of Pillow gets into an answer. The process
ends with its parent. Its environment holds no secrets, and it can write no file.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from PIL import AvifImagePlugin, ExifTags, Image, WebPImagePlugin

from captioner.data.images import decode_picture
from captioner.encoder.preprocessing import Preprocessing
from captioner.sandbox.errors import ImageRejected
from captioner.sandbox.limits import ImageLimits
from captioner.sandbox.upload_checks import ImageHeader, limit_pillow, opened_picture

FRAME = struct.Struct(">II")  # bytes of JSON, bytes that follow it
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
OPEN_FILES = 64
_PDEATHSIG, _NO_NEW_PRIVILEGES = 1, 38  # linux/prctl.h
_PLUGINS = (AvifImagePlugin, WebPImagePlugin)  # the only ones Pillow does not load by itself


def main() -> None:
    """Answer requests until the parent closes the socket."""
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as channel:
        settings = _receive(channel)
        if settings is None:
            return
        options = settings[0]
        limits = ImageLimits(
            **{**options["limits"], "formats": tuple(options["limits"]["formats"])}
        )
        limit_pillow(limits)
        _restrain(options["address_space_bytes"])
        _send(channel, {"ready": True}, b"")
        while (request := _receive(channel)) is not None:
            _limit_cpu(options["cpu_seconds"])
            _send(channel, *_answer(*request, limits))


def _answer(request: dict[str, Any], data: bytes, limits: ImageLimits) -> tuple[Any, bytes]:
    began = time.monotonic()
    try:
        header, size, pixels = decode(
            data, Preprocessing.from_json(request["preprocessing"]), limits
        )
    except ImageRejected as refused:
        return {"code": refused.code, "detail": refused.detail}, b""
    return {**asdict(header), "pixels": size, "seconds": time.monotonic() - began}, pixels


def decode(
    data: bytes, preprocessing: Preprocessing, limits: ImageLimits
) -> tuple[ImageHeader, tuple[int, int], bytes]:
    """Return the upright header, the size of the resized picture, and its bytes row by row.

    The picture is the one that `preprocessing.read` gives of the same bytes.

    Raises:
        ImageRejected: the upload is beyond a limit, no picture, or damaged.
    """
    with opened_picture(data, limits) as (image, header):
        picture = decode_picture(image, preprocessing.least_size)
        with suppress(Exception):  # as in `decode_picture`: metadata may be damaged
            if image.getexif().get(ExifTags.Base.Orientation) in TURNED:
                header = replace(header, width=header.height, height=header.width)
        resized = preprocessing.resized(picture)
        return header, resized.size, resized.tobytes()


def _restrain(address_space_bytes: int) -> None:
    """Take from this process whatever decoding does not need."""
    warnings.simplefilter("ignore")
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    Image.preinit()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        resource.setrlimit(kind, (most, most))
    if sys.platform != "linux":
        return
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")  # where memory runs out, this process goes and the service stays
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    most = used + address_space_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_cpu(seconds: int) -> None:
    """Let the kernel kill this process when it has computed that much longer."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, most))


def _receive(channel: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """Return the next message, or nothing when the parent is gone."""
    start = _read(channel, FRAME.size)
    if start is None:
        return None
    sizes = FRAME.unpack(start)
    head, body = (_read(channel, size) for size in sizes)
    return None if head is None or body is None else (json.loads(head), body)


def _read(channel: socket.socket, size: int) -> bytes | None:
    content = bytearray(size)
    rest = memoryview(content)
    while rest:
        count = channel.recv_into(rest)
        if not count:
            return None
        rest = rest[count:]
    return bytes(content)


def _send(channel: socket.socket, head: Any, body: bytes) -> None:
    text = json.dumps(head).encode("ascii")
    channel.sendall(FRAME.pack(len(text), len(body)) + text + body)


if __name__ == "__main__":
    with suppress(ConnectionError):
        main()
