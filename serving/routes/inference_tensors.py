"""Tensors of the Open Inference Protocol: photographs that come in, captions that go out.

A tensor stands in the JSON (`data`) or, by the binary tensor data extension, after it: the header
`Inference-Header-Content-Length` says where the JSON ends. An element of a BYTES tensor is then its
length, an unsigned integer of 4 bytes, and its bytes; all is little-endian.

JSON cannot hold a file's bytes, and the protocol does not say how it should; servers and clients of
it agree on base64.

Sources: open-inference-protocol, specification/protocol/inference_rest.md; Triton Inference Server,
docs/protocol/extension_binary_data.md; MLServer's content type `base64`.
"""

import json
import struct
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.problems import Problem
from serving.routes.openapi_responses import EXAMPLE_IMAGE
from serving.routes.request_options import WHOLE, invalid
from serving.routes.uploads import image_from_text, json_of

LENGTH_HEADER = "Inference-Header-Content-Length"
INPUT = "image"
BYTES, FP32 = "BYTES", "FP32"
LENGTH = struct.Struct("<I")
MOST_TENSORS = 16
LONGEST_ID = 1000  # characters
SHARED_MEMORY = "shared_memory_region"

Parameters = Annotated[dict[str, Any] | None, Field(description="By name.")]


class InputTensor(BaseModel):
    """The photographs of a request: files, one element each."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(examples=[INPUT])
    datatype: str = Field(examples=[BYTES])
    shape: list[Annotated[int, WHOLE]] = Field(
        description="[N] or [N, 1] for N photographs.", examples=[[1]]
    )
    parameters: Parameters = None
    data: list[Any] | None = Field(
        None,
        description="Each file as base64; absent where the bytes follow the JSON and the parameter "
        "`binary_data_size` counts them.",
        examples=[[EXAMPLE_IMAGE]],
    )


class RequestedOutput(BaseModel):
    """An output that is to be in the answer."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(examples=["caption"])
    parameters: Parameters = None


class InferenceRequest(BaseModel):
    """What of the protocol's request is read; the rest may be there."""

    model_config = ConfigDict(extra="allow")

    inputs: list[InputTensor] = Field(max_length=MOST_TENSORS)
    outputs: list[RequestedOutput] | None = Field(
        None, description="Those to be in the answer; all without it.", max_length=MOST_TENSORS
    )
    parameters: Annotated[
        dict[str, Any] | None, Field(description="Options, as of `POST /caption`.")
    ] = None
    id: str | None = Field(
        None, description="Comes back in the answer.", examples=["42"], max_length=LONGEST_ID
    )


class TensorMetadata(BaseModel):
    """Name, type and shape of a tensor; -1 is any number."""

    name: str = Field(examples=[INPUT])
    datatype: str = Field(examples=[BYTES])
    shape: list[int] = Field(examples=[[-1]])


class OutputTensor(TensorMetadata):
    """A tensor of the answer; without `data` its bytes follow the JSON."""

    parameters: Parameters = None
    data: list[Any] | None = None


class InferenceAnswer(BaseModel):
    """The output tensors."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str = Field(examples=["captioner"])
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = Field(None, description="That of the request.")


class Output(NamedTuple):
    """A tensor with a row of elements for each photograph: text or numbers."""

    name: str
    datatype: str
    rows: Sequence[Sequence[Any]]


class Inference(NamedTuple):
    """What a request asks for."""

    files: list[bytes]
    outputs: list[RequestedOutput]  # none: all there are
    parameters: dict[str, Any]
    id: str | None


def inference_of(body: bytes, json_length: int | None, *, most_files: int) -> Inference:
    """Return what a body asks for, whose JSON has `json_length` bytes; None: it is all JSON.

    Raises:
        Problem: it is no request, or its input no tensor of one to `most_files` files.
    """
    if json_length is not None and json_length > len(body):
        detail = f"{LENGTH_HEADER} is {json_length:,}, and the body has {len(body):,} bytes"
        raise Problem("invalid_parameter", detail)
    end = len(body) if json_length is None else json_length
    try:
        request = InferenceRequest.model_validate(json_of(body[:end]), strict=True)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False)) from None
    files = _files(request, memoryview(body)[end:], most_files)
    return Inference(files, request.outputs or [], request.parameters or {}, request.id)


def outputs_wanted(asked: Inference, there_are: Sequence[str]) -> list[tuple[str, bool]]:
    """Return the names of the outputs that a request asks for, and which go after the JSON.

    Raises:
        Problem: there is no such output, or not in such a form.
    """
    default = asked.parameters.get("binary_data_output", False)
    wanted = []
    for one in asked.outputs or [RequestedOutput(name=name) for name in there_are]:
        given = one.parameters or {}
        if one.name not in there_are:
            raise _wrong(f"{one.name[:40]!r} is no output; there are {', '.join(there_are)}", "")
        for name in (SHARED_MEMORY, "classification"):
            if name in given:
                raise _wrong(f"output {one.name!r} cannot be given by {name}", "")
        is_binary = given.get("binary_data", default)
        if not isinstance(is_binary, bool):
            raise _wrong(f"binary_data is {str(is_binary)[:40]!r}; give true or false", "")
        wanted.append((one.name, is_binary))
    return wanted


def written(
    head: dict[str, Any], outputs: Sequence[tuple[Output, bool]]
) -> tuple[bytes, int | None]:
    """Return the body of an answer with the members of `head`, and how long its JSON is.

    Each output goes into the JSON or, where it is to be binary, after it; where none is, the whole
    body is JSON and its length is None.
    """
    described, parts = [], []
    for output, is_binary in outputs:
        flat = [element for row in output.rows for element in row]
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": [len(output.rows), len(output.rows[0])],
        }
        if is_binary:
            parts.append(_binary(output.datatype, flat))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = flat if output.datatype == BYTES else [_shortest(one) for one in flat]
        described.append(entry)
    text = json.dumps({**head, "outputs": described}, ensure_ascii=False, separators=(",", ":"))
    encoded = text.encode()
    return b"".join([encoded, *parts]), len(encoded) if parts else None


def _files(inference: InferenceRequest, binary: memoryview, most_files: int) -> list[bytes]:
    if [one.name for one in inference.inputs] != [INPUT]:
        names = ", ".join(repr(one.name[:40]) for one in inference.inputs) or "nothing"
        raise _wrong(f"inputs holds {names}; the model has one input, {INPUT!r}")
    (tensor,) = inference.inputs
    given = tensor.parameters or {}
    if tensor.datatype != BYTES:
        raise _wrong(f"datatype is {tensor.datatype[:40]!r}; send whole files, as {BYTES}")
    count = tensor.shape[0] if tensor.shape else 0
    if tensor.shape not in ([count], [count, 1]) or not 1 <= count <= most_files:
        raise _wrong(
            f"shape is {str(tensor.shape)[:40]}; it is [N] or [N, 1] for N photographs, at least 1 "
            f"and at most {most_files}"
        )
    if SHARED_MEMORY in given:
        raise _wrong("there is no shared memory here; send the bytes")
    size = given.get("binary_data_size")
    if (size is None) == (tensor.data is None):
        raise _wrong("it has either data or the parameter binary_data_size")
    if size is not None:
        files = _from_binary(binary, size, count)
    else:
        if len(binary):
            raise _wrong(f"{len(binary):,} bytes follow the JSON, and no tensor is made of them")
        files = _from_json(tensor.data or [], given.get("content_type"), count)
    for index, file in enumerate(files):
        if not file:
            raise Problem("missing_file", f"{INPUT}[{index}] is empty; send an encoded picture")
    return files


def _from_binary(binary: memoryview, size: Any, count: int) -> list[bytes]:
    if size != len(binary):
        raise _wrong(f"binary_data_size is {str(size)[:40]}; {len(binary):,} bytes follow the JSON")
    files, place = [], 0
    for index in range(count):
        start = place + LENGTH.size
        if start > len(binary):
            raise _wrong(f"its bytes end before element {index}; shape promises {count}")
        (length,) = LENGTH.unpack_from(binary, place)
        place = start + length
        if place > len(binary):
            raise _wrong(f"element {index} has {length:,} bytes, {len(binary) - start:,} are there")
        files.append(bytes(binary[start:place]))
    if place != len(binary):
        raise _wrong(f"{len(binary) - place:,} bytes are left after its {count} elements")
    return files


def _from_json(data: list[Any], content_type: Any, count: int) -> list[bytes]:
    if content_type not in (None, "base64"):
        raise _wrong(f"content_type is {str(content_type)[:40]!r}; data is base64")
    flat = [
        element for row in data for element in (row if isinstance(row, list) else [row])
    ]  # a tensor's rows may be lists or not
    if len(flat) != count:
        raise _wrong(f"data has {len(flat)} elements; shape promises {count}")
    return [image_from_text(text, f"{INPUT}[{index}]") for index, text in enumerate(flat)]


def _binary(datatype: str, flat: Sequence[Any]) -> bytes:
    if datatype == FP32:
        return np.asarray(flat, "<f4").tobytes()
    encoded = [text.encode() for text in flat]
    return b"".join(LENGTH.pack(len(one)) + one for one in encoded)


def _shortest(number: float) -> float:
    """Return the number with the fewest digits that is the same in 32 bits."""
    return float(str(np.float32(number)))


def _wrong(reason: str, subject: str = f"input {INPUT!r}: ") -> Problem:
    return Problem("invalid_parameter", subject + reason)
