"""Files of ONNX graphs, read without the package `onnx`, which a runtime does not need otherwise.

A file is a message of Protocol Buffers (https://protobuf.dev/programming-guides/encoding): fields,
each a number, a kind and a value. Those that are read here, and their numbers, are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioner.errors import CheckpointError
from captioner.text import in_one_line

_TYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 10: np.float16}
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # the kinds of values
_IS_EXTERNAL = 1


@dataclass(frozen=True)
class Port:
    """An input or an output; a size that is free has a name."""

    name: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Node:
    kind: str  # of operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]  # numbers and lists of numbers


@dataclass(frozen=True, eq=False)
class Graph:
    nodes: tuple[Node, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: dict[str, np.ndarray]  # those in a file of their own are mapped from it


def read_graph(path: Path) -> Graph:
    """Return the graph in a file.

    Raises:
        CheckpointError: the file is none, or has weights of a kind that is not known here.
    """
    try:
        fields = _fields(_only(_fields(path.read_bytes()), 7))
        return Graph(
            nodes=tuple(map(_node, fields.get(1, []))),
            inputs=tuple(map(_port, fields.get(11, []))),
            outputs=tuple(map(_port, fields.get(12, []))),
            weights=dict(_weight(one, path.parent) for one in fields.get(5, [])),
        )
    except Exception as problem:  # bytes that are no graph can be taken for anything
        raise CheckpointError(
            f"{path} is no graph that can be read ({in_one_line(problem)[:300]}); export the "
            "checkpoint again"
        ) from problem


def _fields(message: bytes) -> dict[int, list[Any]]:
    """Return the values of a message by the number of their field."""
    found: dict[int, list[Any]] = {}
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == _VARINT:
            number, place = _varint(message, place)
            found.setdefault(key >> 3, []).append(number)
            continue
        size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind, 0)
        if kind == _BYTES:
            size, place = _varint(message, place)
        elif not size:
            raise ValueError(f"a field of kind {kind}")
        if place + size > len(message):
            raise ValueError("it ends within a field")
        found.setdefault(key >> 3, []).append(message[place : place + size])
        place += size
    return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return a number of any length, 7 bits in each byte, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _numbers(values: list[Any]) -> Iterator[int]:
    """Yield whole numbers, which stand alone or many in one value."""
    for value in values:
        if isinstance(value, int):
            yield _signed(value)
        else:
            place = 0
            while place < len(value):
                number, place = _varint(value, place)
                yield _signed(number)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _only(fields: dict[int, list[Any]], number: int, default: Any = b"") -> Any:
    return fields.get(number, [default])[-1]  # of several the last one counts


def _text(fields: dict[int, list[Any]], number: int) -> str:
    return str(_only(fields, number), "utf-8")


def _node(message: bytes) -> Node:
    fields = _fields(message)
    inputs, outputs = (tuple(str(one, "utf-8") for one in fields.get(n, [])) for n in (1, 2))
    return Node(_text(fields, 4), inputs, outputs, dict(map(_attribute, fields.get(5, []))))


def _attribute(message: bytes) -> tuple[str, Any]:
    fields = _fields(message)
    kind = _only(fields, 20, 0)
    values = {
        1: lambda: struct.unpack("<f", _only(fields, 2, bytes(4)))[0],
        2: lambda: _signed(_only(fields, 3, 0)),
        7: lambda: list(_numbers(fields.get(8, []))),
    }
    return _text(fields, 1), values[kind]() if kind in values else message


def _port(message: bytes) -> Port:
    fields = _fields(message)
    shape = _fields(_only(_fields(_only(_fields(_only(fields, 2)), 1)), 2))
    sizes = [_fields(one) for one in shape.get(1, [])]
    return Port(
        _text(fields, 1), tuple(_only(one, 1, 0) if 1 in one else _text(one, 2) for one in sizes)
    )


def _weight(message: bytes, folder: Path) -> tuple[str, np.ndarray]:
    fields = _fields(message)
    shape = tuple(_numbers(fields.get(1, [])))
    kind = _TYPES[_only(fields, 2, 0)]
    if _only(fields, 14, 0) == _IS_EXTERNAL:
        where = {_text(one, 1): _text(one, 2) for one in map(_fields, fields.get(13, []))}
        file = folder / Path(where["location"]).name
        start = int(where.get("offset", 0))
        return _text(fields, 8), np.memmap(file, kind, "r", start, shape)
    if 9 in fields:
        return _text(fields, 8), np.frombuffer(_only(fields, 9), kind).reshape(shape)
    values = list(_numbers([one for number in (5, 7) for one in fields.get(number, [])]))
    floats = b"".join(fields.get(4, []))
    found = np.frombuffer(floats, np.float32) if floats else np.array(values)
    return _text(fields, 8), found.astype(kind).reshape(shape)
