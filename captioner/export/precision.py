"""The choice among precisions and engines: parts are made, judged by CIDEr and timed.

float32 by ONNX Runtime is what everything is compared with. A part in another precision that costs
too much of the validation's CIDEr is refused and stays in float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from statistics import geometric_mean
from typing import Any

from captioner import graphs
from captioner.checkpoint import Checkpoint
from captioner.deployable import DECODER, ENCODER
from captioner.engines import Engine
from captioner.engines.torch_engine import TorchEngine
from captioner.errors import DataError
from captioner.export.calibration import quantise_decoder
from captioner.export.checks import captions_of, synthetic_photographs
from captioner.export.config import AUTO, FLOAT16, FLOAT32, INT8, MOST_LOSS, ExportOptions
from captioner.export.encoder_int8 import ENCODER_QUANTISERS
from captioner.export.judging import Judge, Verdict
from captioner.export.measurement import BATCHES, Rates, decoder_rates, encoder_rates
from captioner.export.parts import Assembler, Part
from captioner.export.photographs import Announce, Photographs, encode_files
from captioner.export.weights import write_in_float16
from captioner.features import Features
from captioner.search_config import SearchConfig

# A library more in every deployment has to be worth it.
LEAST_GAIN = 1.2


@dataclass(frozen=True)
class Choice:
    """The two parts of a captioner, with what is known of them and of those not chosen."""

    encoder: Part
    decoder: Part
    rates: Rates = field(default_factory=dict)
    verdicts: Mapping[Part, Verdict] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "images_per_second": {
                str(part): {f"batch_{size}": round(rate, 2) for size, rate in by_size.items()}
                for part, by_size in self.rates.items()
            },
            "cider": {
                str(part): {"float32": verdict.before, "this": verdict.after, "loss": verdict.loss}
                for part, verdict in self.verdicts.items()
            },
        }


class PrecisionChooser:
    """Makes the parts that options ask for, and chooses among them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        float32: Choice,
        assembler: Assembler,
        photographs: Photographs,
        options: ExportOptions,
        announce: Announce,
        *,
        show_progress: bool = False,
    ) -> None:
        self._checkpoint = checkpoint
        self._float32 = float32
        self._assembler = assembler
        self._photographs = photographs
        self._options = options
        self._announce = announce
        self._show_progress = show_progress

    def choose(self) -> Choice:
        """Return the parts to deploy, and print what was found of all."""
        torch = TorchEngine(self._checkpoint.encoder, self._checkpoint.decoder)
        encoder, decoder = self._float32.encoder, self._float32.decoder
        by_torch = Part(of=DECODER, engine="torch", precision=FLOAT32, folder=decoder.folder)

        engines = {part: self._assembler.engine(encoder, part) for part in self._decoders()}
        rates = decoder_rates({by_torch: torch, **engines}, self._features, SearchConfig())
        verdicts = self._verdicts({part: (engine, None) for part, engine in engines.items()})
        decoder = self._pick(engines, rates, verdicts)

        by_torch = Part(of=ENCODER, engine="torch", precision=FLOAT32, folder=encoder.folder)
        engines = {part: self._assembler.engine(part, decoder) for part in self._encoders()}
        side = self._checkpoint.encoder.preprocessing.image_size
        rates |= encoder_rates({by_torch: torch, **engines}, synthetic_photographs(side)[0])
        verdicts |= self._verdicts({part: (engine, engine) for part, engine in engines.items()})
        encoder = self._pick(engines, rates, verdicts)

        for line in _table(rates, verdicts, (encoder, decoder)):
            self._announce(line)
        return Choice(encoder, decoder, rates, verdicts)

    def _decoders(self) -> list[Part]:
        """Return the decoders that come into question."""
        if not self._is_int8_wanted(DECODER):
            return [self._float32.decoder]
        folder = self._assembler.new_folder(f"{DECODER}-{INT8}")
        paths = self._photographs.calibration
        features = encode_files(
            self._engine, paths, "features to calibrate on", show_progress=self._show_progress
        )
        quantise_decoder(self._float32.decoder.folder, folder, self._engine, features)
        part = Part(of=DECODER, engine=self._float32.decoder.engine, precision=INT8, folder=folder)
        return [self._float32.decoder, part]

    def _encoders(self) -> list[Part]:
        """Return the encoders that come into question."""
        float32 = self._float32.encoder
        parts = [float32]
        is_float16_wanted = self._options.precision_of(ENCODER) == FLOAT16
        for engine in self._engines_for_encoders():
            if engine != float32.engine:
                parts.append(
                    Part(of=ENCODER, engine=engine, precision=FLOAT32, folder=float32.folder)
                )
            if is_float16_wanted:
                folder = self._assembler.new_folder(f"{ENCODER}-{engine}-{FLOAT16}")
                write_in_float16(float32.folder / graphs.ENCODER, folder / graphs.ENCODER)
                parts.append(Part(of=ENCODER, engine=engine, precision=FLOAT16, folder=folder))
            if self._is_int8_wanted(ENCODER):
                folder = self._assembler.new_folder(f"{ENCODER}-{engine}-{INT8}")
                count = len(self._photographs.calibration)
                self._announce(
                    f"calibrating the encoder by {engine} in int8 on {count} photographs"
                )
                ENCODER_QUANTISERS[engine](
                    float32.folder,
                    folder,
                    self._checkpoint.encoder.preprocessing,
                    self._photographs.calibration,
                )
                parts.append(Part(of=ENCODER, engine=engine, precision=INT8, folder=folder))
        return parts

    def _is_int8_wanted(self, part: str) -> bool:
        """Return whether int8 comes into question, and there is what it is calibrated on."""
        is_wanted = self._options.precision_of(part) in (INT8, AUTO)
        return is_wanted and bool(self._photographs.calibration)

    def _engines_for_encoders(self) -> list[str]:
        if self._options.engine is not None:
            return [self._options.engine]
        is_open = self._options.precision_of(ENCODER) == AUTO
        has_openvino = is_open and find_spec("openvino") is not None
        return ["onnxruntime", *(["openvino"] if has_openvino else [])]

    def _verdicts(
        self, engines: Mapping[Part, tuple[Engine, Engine | None]]
    ) -> dict[Part, Verdict]:
        """Return what each part not in float32 costs; an engine may bring the one that encodes."""
        found: dict[Part, Verdict] = {}
        if not self._photographs.validation:
            return found
        for part, (engine, encodes) in engines.items():
            if part.precision != FLOAT32:
                features = self._features if encodes is None else self._encoded(encodes, str(part))
                found[part] = Verdict(
                    before=self._cider,
                    after=self._judge.cider(captions_of(engine, features, SearchConfig())),
                )
        return found

    def _pick(
        self, parts: Mapping[Part, Engine], rates: Rates, verdicts: Mapping[Part, Verdict]
    ) -> Part:
        """Return the part to deploy among those of one kind, the first being in float32."""
        first = next(iter(parts))
        accepted = [part for part in parts if self._is_accepted(part, verdicts.get(part))]
        if first.of == ENCODER and self._options.engine is not None:
            accepted = [part for part in accepted if part.engine == self._options.engine]
        wanted = self._options.precision_of(first.of)
        if wanted != AUTO:
            return next((part for part in accepted if part.precision == wanted), accepted[0])

        def rating(part: Part) -> float:
            is_dear = part.engine not in (first.engine, self._options.engine)
            return geometric_mean(rates[part].values()) / (LEAST_GAIN if is_dear else 1.0)

        return max(accepted, key=rating)

    def _is_accepted(self, part: Part, verdict: Verdict | None) -> bool:
        if part.precision == FLOAT32 or verdict is None:
            return True
        if not (verdict.says_anything or self._options.allow_loss):
            count = len(self._photographs.validation)
            problem = (
                f"{part}: CIDEr in float32 is 0 on {count} validation photographs, so what it "
                "costs cannot be judged"
            )
            if self._options.precision_of(part.of) == part.precision:
                raise DataError(f"{problem}; name other --data, or add --allow-loss")
            self._announce(f"{problem}; it is left out")
            return False
        if verdict.is_accepted:
            return True
        if self._options.allow_loss:
            self._announce(f"{part} costs more than {MOST_LOSS:.0%}, which --allow-loss accepts")
            return True
        self._announce(
            f"{part} is refused: {verdict}, allowed is a loss below {MOST_LOSS:.0%}; "
            "--allow-loss accepts it"
        )
        return False

    @cached_property
    def _engine(self) -> Any:
        return self._assembler.engine(self._float32.encoder, self._float32.decoder)

    @cached_property
    def _features(self) -> Features:
        """Return the features of the validation photographs, or else of some pictures."""
        if self._photographs.validation:
            return self._encoded(self._engine, "validation")
        side = self._checkpoint.encoder.preprocessing.image_size
        return self._engine.encode(synthetic_photographs(side, max(BATCHES)))

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self._photographs.validation, self._checkpoint.vocabulary)

    @cached_property
    def _cider(self) -> float:
        return self._judge.cider(captions_of(self._engine, self._features, SearchConfig()))

    def _encoded(self, engine: Engine, what: str) -> Features:
        paths = [image.path for image in self._photographs.validation]
        return encode_files(engine, paths, f"features: {what}", show_progress=self._show_progress)


def _table(rates: Rates, verdicts: Mapping[Part, Verdict], chosen: Sequence[Part]) -> list[str]:
    """Return lines that compare all parts, those chosen marked."""
    sizes = "".join(f"{f'images/s by {size}':>16}" for size in BATCHES)
    lines = [f"  {'part':40}{sizes}{'MB':>8}  CIDEr of validation"]
    for part, by_size in rates.items():
        figures = "".join(f"{by_size[size]:16.1f}" for size in BATCHES)
        size = "" if part.engine == "torch" else f"{part.bytes / 1e6:.1f}"
        mark = "*" if part in chosen else " "
        lines.append(f"{mark} {part!s:40}{figures}{size:>8}  {verdicts.get(part, '')}".rstrip())
    return lines
