"""The measuring of limits counts what graphs multiply, and reads large photographs as they are."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from captioner.encoder.preprocessing import Preprocessing

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module", autouse=True)
def script() -> ModuleType:
    """The script, with the package that it imports beside it."""
    with pytest.MonkeyPatch.context() as patches:
        patches.syspath_prepend(str(SCRIPTS))
        import bench_limits

        return bench_limits


def test_a_profile_counts_the_multiplications_of_one_run_each(tmp_path: Path) -> None:
    from inference.profiles import microseconds_by_kind, profile

    weight, kernel = np.ones((7, 5), np.float32), np.ones((8, 3, 2, 2), np.float32)
    nodes = [
        helper.make_node("MatMul", ["rows", "weight"], ["product"]),
        helper.make_node("Conv", ["image", "kernel"], ["filtered"]),
        helper.make_node("Tanh", ["product"], ["last"]),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "known",
        [
            helper.make_tensor_value_info("rows", floats, ["n", 7]),
            helper.make_tensor_value_info("image", floats, [1, 3, 6, 9]),
        ],
        [
            helper.make_tensor_value_info("last", floats, ["n", 5]),
            helper.make_tensor_value_info("filtered", floats, [1, 8, 5, 8]),
        ],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(kernel, "kernel")],
    )
    opsets = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "known.onnx")
    given = {"rows": np.ones((3, 7), np.float32), "image": np.ones((1, 3, 6, 9), np.float32)}
    ran = profile(tmp_path / "known.onnx", 1, lambda one: one.run(None, given), 4)
    by_product = 3 * 5 * 7
    by_convolution = 8 * 5 * 8 * (3 * 2 * 2)
    assert sum(one.multiplications for one in ran) == 4 * (by_product + by_convolution)
    assert {"MatMul", "Conv", "Tanh"} <= set(microseconds_by_kind(ran, 4))


def test_large_photographs_are_read_in_every_format(monkeypatch: pytest.MonkeyPatch) -> None:
    from inference import large_photographs

    monkeypatch.setattr(large_photographs, "LARGE", (640, 480))
    preprocessing = Preprocessing(image_size=44, image_mode="squash", crop_fraction=1.0)
    rows = {row["format"]: row for row in large_photographs.large_photographs(preprocessing, 1)}
    assert rows["PNG"]["ready_off"] == rows["PNG"]["quarter_off"] == 0.0
    assert rows["PNG"]["alone"]["zlib alone"] < rows["PNG"]["ready"]
    baseline, progressive = rows["JPEG 4:4:4, quality 90"], rows["progressive JPEG 4:4:4"]
    assert "alone" not in baseline
    assert set(progressive["alone"]) == {"all scans", "those needed"}
    assert baseline["ready_off"] == pytest.approx(progressive["ready_off"])
    assert 0.0 < baseline["quarter_off"] < baseline["ready_off"] < 3.0


def test_bad_options_are_one_line_and_status_2(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--rounds", "0"]) == 2
    assert "--rounds is 0" in capsys.readouterr().err
