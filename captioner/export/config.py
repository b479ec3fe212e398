"""Options of an export, declared once for the command and the library."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from captioner.deployable import DECODER, ENCODER
from captioner.options import AT_LEAST_ONE, Options, option

FLOAT32, FLOAT16, INT8, AUTO = "float32", "float16", "int8", "auto"
MOST_LOSS = 0.01  # of the validation CIDEr, relative: from here on a part is refused


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """How a captioner is exported, and on which photographs that is judged."""

    out: Path | None = option(
        None, "folder to write; default: `deployable` beside the checkpoint", metavar="DIR"
    )
    web: Path | None = option(
        None,
        "write a folder of static files, a page that captions in the browser; CHECKPOINT may then "
        "be a folder that was exported already, or be left out for the model of the package",
        metavar="DIR",
    )
    precision: str = option(
        FLOAT32,
        "of the weights; auto times what is installed here and takes the quickest",
        choices=(FLOAT32, INT8, AUTO),
    )
    encoder_precision: str | None = option(
        None,
        "of the encoder alone; float16 halves its weights in the folder, and they are computed "
        "with in float32; default: that of --precision",
        choices=(FLOAT32, FLOAT16, INT8, AUTO),
    )
    engine: str | None = option(
        None,
        "runs the encoder: onnxruntime, or openvino where that is installed; "
        "default: onnxruntime, with auto the quicker one",
        choices=("onnxruntime", "openvino"),
    )
    data: str | None = option(
        None,
        "coco, shapes or a path: int8 is calibrated on its training photographs and judged on "
        "those of validation; default: what the checkpoint was trained on",
        metavar="DATA",
    )
    images: Path | None = option(None, "folder of the images of --data", metavar="DIR")
    calibration: Path | None = option(
        None,
        "folder of photographs to calibrate on instead of --data; needs --allow-loss, for "
        "photographs without captions show no loss",
        metavar="DIR",
    )
    calibration_images: int = option(300, "most photographs to calibrate on", within=AT_LEAST_ONE)
    val_images: int = option(500, "most photographs of validation", within=AT_LEAST_ONE)
    allow_loss: bool = option(False, "accept also what costs 1 % of the CIDEr or more")
    threads: int | None = option(
        None, "processor threads that are timed with; default: all cores", within=AT_LEAST_ONE
    )

    def precision_of(self, part: str) -> str:
        """Return what is asked for a part, ENCODER or DECODER."""
        if part == ENCODER and self.encoder_precision is not None:
            return self.encoder_precision
        return self.precision

    @property
    def precisions(self) -> set[str]:
        """Return what is asked for any part."""
        return {self.precision_of(part) for part in (ENCODER, DECODER)}

    def contradictions(self) -> Iterable[str]:
        if self.calibration is not None and not self.allow_loss:
            yield (
                "--calibration without --allow-loss: photographs without captions cannot show "
                "what int8 costs; add --allow-loss, or give --data instead"
            )
        if self.calibration is not None and self.data is not None:
            yield "--calibration and --data: give the one or the other"
