"""Encoders in int8, calibrated on photographs by the libraries that run them.

Convolutions get weights with a scale for each channel; what they read has a fixed scale. The
bounds of a scale are those of nearly all numbers (percentiles), for single large ones would make
all others coarse. Weights take 7 of the 8 bits, see captioner/export/quantisation.py.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from captioner import graphs
from captioner.encoder.preprocessing import Preprocessing
from captioner.export.photographs import read_files
from captioner.extras import needing

_PHOTOGRAPHS_HELD = 16  # with all that an encoder computes of them: tens of MB each


def quantise_for_onnxruntime(
    source: Path, target: Path, preprocessing: Preprocessing, photographs: Sequence[Path]
) -> None:
    """Write an encoder in int8 for ONNX Runtime: quantised convolutions in the form QDQ."""
    import logging

    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    from captioner.export.weights import write_model

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.set_range(0, len(photographs))

        def __len__(self) -> int:
            return len(photographs)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.pixels = _pixels(preprocessing, photographs[start_index:end_index])

        def get_next(self) -> Any:
            pixels = next(self.pixels, None)  # one by one: the library takes no shorter batch
            return None if pixels is None else {graphs.PIXELS: pixels[np.newaxis]}

    at_once = min(_PHOTOGRAPHS_HELD, len(photographs))
    photographs = photographs[: len(photographs) // at_once * at_once]
    model = onnx.load(source / graphs.ENCODER)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    logging.getLogger().setLevel(logging.ERROR)  # it recommends what was done
    with _without_printing():
        quantize_static(
            source / graphs.ENCODER,
            target / graphs.ENCODER,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "Clip"],
            # The first sees pixels, of which 8 bits are all there is.
            nodes_to_exclude=convolutions[:1],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": 99.99, "CalibStridedMinMax": at_once},
        )
    write_model(onnx.load(target / graphs.ENCODER), target / graphs.ENCODER)


def quantise_for_openvino(
    source: Path, target: Path, preprocessing: Preprocessing, photographs: Sequence[Path]
) -> None:
    """Write an encoder in int8 for OpenVINO, as its own tool NNCF quantises it."""
    import logging

    # NNCF loads what builds extensions of PyTorch, which warns where there is no GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use, as soon as it is imported
    with needing("openvino", "int8 for OpenVINO"):
        import nncf
        import openvino
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
    )

    nncf.set_log_level(40)
    model = openvino.Core().read_model(source / graphs.ENCODER)
    pixels = list(_pixels(preprocessing, photographs))
    with _without_printing():
        quantised = nncf.quantize(
            model,
            nncf.Dataset(pixels, lambda image: image[np.newaxis]),
            subset_size=len(pixels),
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
        )
    openvino.save_model(quantised, target / graphs.OPENVINO_ENCODER, compress_to_fp16=False)


@contextmanager
def _without_printing() -> Iterator[None]:
    """Keep the libraries from writing of their steps among the lines of the export."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _pixels(preprocessing: Preprocessing, photographs: Sequence[Path]) -> Iterator[np.ndarray]:
    """Yield the pixels of each photograph, uint8 [h, w, 3]."""
    for batch in read_files(preprocessing, photographs):
        yield from batch


# By engine.
ENCODER_QUANTISERS: dict[str, Callable[[Path, Path, Preprocessing, Sequence[Path]], None]] = {
    "onnxruntime": quantise_for_onnxruntime,
    "openvino": quantise_for_openvino,
}
