"""Parts of a multipart/form-data body, read while it arrives, in bounded memory.

Starlette's `request.form()` would write files above 1 MiB to the disk and keep text fields of up to
1 MiB each. This reader uses python-multipart directly: a few parts, small fields, and images no
larger than the body may be.
"""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.problems import Problem

IMAGE_FIELDS = ("image", "file")
MANY_IMAGE_FIELDS = ("image", "images", "file", "files")
MOST_FIELDS = 16
MOST_IGNORED = 1000  # of those that nobody reads; each costs some microseconds
FIELD_BYTES = 4096
PREAMBLE_BYTES = 4096  # before the first part; RFC 2046, section 5.1.1, lets clients write some


@dataclass
class _Part:
    name: str
    is_image: bool
    data: bytearray = field(default_factory=bytearray)


class FormReader:
    """Collects the images and, where it keeps them, the text fields of one multipart body.

    Where one image is wanted, empty ones do not count. Where several are, each has its place.

    Raises:
        Problem: the body is malformed or holds more than it may; from any method.
    """

    def __init__(self, content_type: str, *, most_images: int, keeps: bool = True) -> None:
        _, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary", b"")
        if not boundary:
            raise malformed("its Content-Type names no boundary")
        self.images: list[bytes] = []
        self.fields: dict[str, str] = {}
        self.most_images = most_images
        self._keeps = keeps  # fields that are no images
        self._ignored = 0
        self._image_fields = IMAGE_FIELDS if most_images == 1 else MANY_IMAGE_FIELDS
        self._name = b""
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._part: _Part | None = None
        self._boundary_line = b"\n--" + boundary
        self._preamble: bytes | None = b""  # None once the first boundary has come
        self._is_at_end = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": self._on_header_name,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as problem:
            raise malformed(str(problem)) from None

    def feed(self, chunk: bytes) -> None:
        if self._preamble is not None:
            chunk = self._behind_preamble(self._preamble + chunk)
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise malformed("it does not follow RFC 7578") from None

    def finish(self) -> None:
        """Check that the last part has come."""
        if not self._is_at_end:
            raise malformed("it ends before its closing boundary")

    def _behind_preamble(self, start: bytes) -> bytes:
        """Return the body from its first boundary on, and nothing while that has not come."""
        place = (b"\n" + start[:PREAMBLE_BYTES]).find(self._boundary_line)
        if place < 0 and len(start) >= PREAMBLE_BYTES:
            raise malformed(f"its boundary is not in the first {PREAMBLE_BYTES:,} bytes")
        self._preamble = start if place < 0 else None
        return b"" if place < 0 else start[place:]

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        self._disposition = b""
        if b"name" not in parameters:
            raise malformed("a part has no name")
        name = _text(parameters[b"name"])
        is_image = name in self._image_fields
        if is_image and self.most_images > 1 and b"filename" not in parameters:
            raise malformed(f"field {name!r} is text; send each image as a file")
        if not is_image and b"filename" in parameters:
            raise Problem(
                "invalid_parameter",
                f"there is a file in field {name[:40]!r}; send images in the field 'image'",
                members={"parameter": name[:40]},
            )
        if not is_image and not self._keeps:
            self._count_ignored()
        if not is_image and (name in self.fields or len(self.fields) == MOST_FIELDS):
            raise malformed(f"field {name[:40]!r} comes twice, or there are too many fields")
        self._part = _Part(name, is_image)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None
        if self._part.is_image:
            self._check_room(self._part.name)
        elif not self._keeps:
            return
        elif len(self._part.data) + end - start > FIELD_BYTES:
            raise malformed(f"field {self._part.name[:40]!r} is longer than {FIELD_BYTES:,} bytes")
        self._part.data += data[start:end]

    def _on_part_end(self) -> None:
        assert self._part is not None
        if self._part.is_image and self.most_images == 1 and not self._part.data:
            self._count_ignored()  # what a browser sends for a field without a file
        elif self._part.is_image:
            self._check_room(self._part.name)
            self.images.append(bytes(self._part.data))
        elif self._keeps:
            self.fields[self._part.name] = _text(bytes(self._part.data))
        self._part = None

    def _check_room(self, name: str) -> None:
        if len(self.images) == self.most_images:
            raise Problem(
                "invalid_parameter",
                f"the form holds more images than the {self.most_images} that may be sent; send "
                + ("one, or several to /captions" if self.most_images == 1 else "fewer"),
                members={"parameter": name},
            )

    def _count_ignored(self) -> None:
        self._ignored += 1
        if self._ignored > MOST_IGNORED:
            raise malformed("there are too many fields")

    def _on_end(self) -> None:
        self._is_at_end = True


def malformed(reason: str) -> Problem:
    return Problem("invalid_parameter", f"the multipart body cannot be read: {reason}")


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise malformed("a field is not UTF-8") from None
