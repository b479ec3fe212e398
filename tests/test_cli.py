"""The command `captioner` from its words to its output and exit status."""

import io
import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import captioner
from captioner import extras
from captioner.checkpoint import save_checkpoint
from captioner.cli import main
from captioner.commands import forwarded
from captioner.decoders import build_decoder, decoder_options
from captioner.encoder.config import EncoderConfig
from captioner.encoder.timm_encoder import TimmEncoder
from captioner.extras import needing
from captioner.program import Terminated, run_program
from captioner.vocabulary import SPECIAL_TOKENS, Vocabulary

VOCABULARY = Vocabulary((*SPECIAL_TOKENS, "a", "dog", "cat", "runs", "sits", "grass"))


def make_checkpoint(folder: Path, decoder_name: str) -> Path:
    generator = torch.Generator().manual_seed(0)
    encoder = TimmEncoder.create(
        EncoderConfig(name="resnet10t", weights="none", grid=2, image_size=64), generator
    )
    sizes = {"hidden_size": 16, "embedding_size": 8, "attention_size": 8}
    decoder = build_decoder(
        decoder_name,
        decoder_options(decoder_name, sizes),
        vocabulary_size=len(VOCABULARY),
        feature_size=encoder.feature_size,
        generator=generator,
    )
    with torch.no_grad():
        decoder.output.weight.mul_(20)
    save_checkpoint(folder, encoder=encoder, decoder=decoder, vocabulary=VOCABULARY, summary={})
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "best", "soft_attention")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 no more")
    return path


def captions_of(out: str) -> dict[str, str]:
    return dict(line.split("\t") for line in out.splitlines())


def test_every_photograph_gets_a_line_equal_to_the_library(checkpoint, photographs, capsys):
    assert main(["caption", *map(str, photographs), "--checkpoint", str(checkpoint)]) == 0
    printed = capsys.readouterr()
    expected = captioner.load(checkpoint).caption(photographs)
    assert captions_of(printed.out) == {
        str(path): caption.text for path, caption in zip(photographs, expected, strict=True)
    }
    assert printed.err == ""


def test_small_batches_and_one_thread_change_nothing(checkpoint, photographs, capsys):
    words = ["caption", str(photographs[0].parent), "--checkpoint", str(checkpoint)]
    threads = torch.get_num_threads()
    try:
        main(words)
        together = capsys.readouterr()
        main([*words, "--batch-size", "3", "--threads", "1"])
    finally:
        torch.set_num_threads(threads)
    alone = capsys.readouterr()
    assert alone.out == together.out
    # More than one batch takes a while, so there is something to read meanwhile.
    assert "captioning: 4/4 photographs" in alone.err


def test_folders_and_patterns_name_images_and_nothing_twice(
    checkpoint, photographs, capsys, monkeypatch
):
    folder = photographs[0].parent
    below = folder / "below"
    below.mkdir()
    shutil.copy(photographs[0], below / "LOUD.JPG")
    shutil.copy(photographs[0], folder / "no_suffix")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.jpg").write_bytes(b"no image")
    monkeypatch.chdir(folder.parent)
    words = ["photographs", "photographs/**/*", "photographs/notes.txt"]
    assert main(["caption", *words, "--checkpoint", str(checkpoint)]) == 1
    printed = capsys.readouterr()
    assert list(captions_of(printed.out)) == [
        "photographs/no_suffix",
        *(f"photographs/{path.name}" for path in photographs),
        "photographs/below/LOUD.JPG",
    ]
    assert printed.err.startswith("skipped: photographs/notes.txt is not an image")


def test_a_name_may_begin_with_a_tilde(checkpoint, photographs, capsys, monkeypatch):
    shutil.copy(photographs[0], photographs[0].with_name("~dog.jpg"))
    monkeypatch.chdir(photographs[0].parent)
    monkeypatch.setenv("HOME", str(photographs[0].parent))
    assert main(["caption", "~dog.jpg", "~/~dog.jpg", "--checkpoint", str(checkpoint)]) == 0
    captions = captions_of(capsys.readouterr().out)
    assert list(captions) == ["~dog.jpg", str(photographs[0].with_name("~dog.jpg"))]


def test_all_that_can_be_decoded_is_captioned_and_other_images_are_named(
    checkpoint, photographs, capsys
):
    folder = photographs[0].parent
    image, content = Image.new("RGB", (40, 30), "olive"), photographs[0].read_bytes()
    for path in photographs:
        path.unlink()
    readable = {"a.jfif", "b.jpe", "c.JP2", "d.avif", "e.tif", "f.bmp", "g.GIF", "h.webp", "i.png"}
    forms = {".jfif": "JPEG", ".jpe": "JPEG"}
    for name in readable:
        image.save(folder / name, forms.get(Path(name).suffix))
    image.save(folder / "j.jpg", "MPO", save_all=True, append_images=[image])
    (folder / "k.jpeg_large").write_bytes(content)
    readable |= {"j.jpg", "k.jpeg_large"}
    unreadable = {
        "p.heic": b"\0\0\0\x18ftypheic",
        "q.JPG": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",  # as phones name it
        "r.cr2": b"II*\0 raw",
        "s.NEF": b"MM\0* raw",
        "t.svg": b"<svg/>",
        "u": b'<?xml version="1.0"?>\n<svg/>',
        "v.jxl": b"\xff\x0a",
        "w.jpg": content[:300],
    }
    others = {"notes.txt": b"BM, JPEG", "film.mp4": b"\0\0\0\x18ftypisom", "Thumbs.db": b"\xd0\xcf"}
    for name, data in (unreadable | others | {".DS_Store": b"", "._a.jpg": b""}).items():
        (folder / name).write_bytes(data)
    assert main(["caption", str(folder), "--checkpoint", str(checkpoint)]) == 1
    printed = capsys.readouterr()
    assert {Path(path).name for path in captions_of(printed.out)} == readable
    skipped = [line for line in printed.err.splitlines() if line.startswith("skipped")]
    for name, line in zip(sorted(unreadable), skipped, strict=True):
        assert line.startswith(f"skipped: {folder / name} ")
    told = f"{folder}/p.heic is HEIC, which cannot be read here; save it as JPEG or PNG first"
    assert skipped[0] == f"skipped: {told}"
    assert "q.JPG is HEIC" in skipped[1]
    assert "SVG" in skipped[5]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_no_encoding_holds_cost_no_caption(
    checkpoint, photographs, capsys, monkeypatch, encoding
):
    names = ["b\nc\td.jpg", "caf\udce9.jpg", "grün \x1b[31m.jpg"]
    for name in names:
        shutil.copy(photographs[0], photographs[0].with_name(name))
    (photographs[0].with_name("e\udcff.jpg")).write_bytes(b"")
    for path in photographs:
        path.unlink()
    monkeypatch.chdir(photographs[0].parent)
    words = ["caption", ".", "--checkpoint", str(checkpoint)]
    assert main([*words, "--json"]) == 1
    in_letters = capsys.readouterr().out

    def lines(*more: str) -> list[str]:
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            assert main([*words, *more]) == 1
        return out.buffer.getvalue().decode(encoding).splitlines()

    green = "grün" if encoding == "utf-8" else r"gr\xfcn"
    assert [line.split("\t")[0] for line in lines()] == [
        r"b\nc\td.jpg",
        r"caf\xe9.jpg",
        green + r" \x1b[31m.jpg",
    ]
    entries = json.loads("\n".join(lines("--json")))
    assert [entry["image"] for entry in entries] == [*names[:2], "e\udcff.jpg", names[2]]
    assert entries == json.loads(in_letters)
    assert r"e\xff.jpg" in entries[2]["error"]


@pytest.mark.parametrize(("closed", "shown"), [(">&-", ""), ("2>&-", "{}\ta ")])
def test_a_closed_stream_costs_neither_captions_nor_the_status(photographs, closed, shown):
    command = [sys.executable, "-m", "captioner", "caption", str(photographs[0])]
    in_shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
    done = subprocess.run(in_shell, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith(shown.format(photographs[0]))
    assert len(done.stdout.splitlines()) == bool(shown)
    assert "Traceback" not in done.stderr


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Signals as a program finds them: other tests leave handlers, and `nohup` ignores Ctrl-C."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_captions_made_before_an_interruption_are_in_the_json(
    checkpoint, photographs, capsys, monkeypatch, number, status
):
    from captioner.captioner import Captioner

    whole, calls = Captioner.captions_of_pixels, iter((True, False))

    def interrupted(self, *given):
        if not next(calls):
            assert signal.getsignal(number) != signal.SIG_DFL  # or it would end the tests
            signal.raise_signal(number)
        return whole(self, *given)

    monkeypatch.setattr(Captioner, "captions_of_pixels", interrupted)
    words = ["caption", *map(str, photographs), "--checkpoint", str(checkpoint), "--json"]
    assert main([*words, "--batch-size", "2"]) == status
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [entry["image"] for entry in found] == [*map(str, photographs[:2])]
    assert printed.err.endswith("interrupted\n")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(checkpoint, photographs, capsys):
    odd = photographs[0].with_name("dog[1].jpg")
    shutil.copy(photographs[0], odd)
    assert main(["caption", str(odd), "--checkpoint", str(checkpoint)]) == 0
    assert list(captions_of(capsys.readouterr().out)) == [str(odd)]


def test_several_captions_stand_best_first_with_their_log_probability(
    checkpoint, photographs, capsys
):
    words = ["caption", str(photographs[0]), "--checkpoint", str(checkpoint)]
    assert main([*words, "--num-captions", "4"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    (expected,) = captioner.load(checkpoint).captions(photographs[:1], num_captions=4)
    assert [line[1] for line in lines] == [caption.text for caption in expected]
    assert [float(line[2]) for line in lines] == pytest.approx(
        [caption.log_prob for caption in expected], abs=6e-4
    )


def test_captions_can_be_drawn_and_told_what_to_hold(checkpoint, photographs, capsys):
    words = ["caption", str(photographs[0]), "--checkpoint", str(checkpoint)]
    known = VOCABULARY.words[-1]
    assert main([*words, "--include", known, "--no-repeat-ngram", "2"]) == 0
    (caption,) = captions_of(capsys.readouterr().out).values()
    assert known in caption.split()
    drawn = []
    for _ in range(2):
        assert (
            main([*words, "--sample", "--seed", "3", "--temperature", "1.5", "--top-k", "4"]) == 0
        )
        drawn.append(capsys.readouterr().out)
    assert drawn[0] == drawn[1]
    assert main([*words, "--exclude", f"{known},zebra"]) == 2
    error = capsys.readouterr().err
    assert "exclude holds 'zebra', which is not among the" in error
    assert error.count("\n") == 1


def test_photographs_may_stand_behind_the_words_of_a_flag(checkpoint, photographs, capsys):
    words = ["caption", "--checkpoint", str(checkpoint)]
    assert main([*words, "--include", "dog", "grass", *map(str, photographs)]) == 0
    behind = capsys.readouterr().out
    assert main([*words, *map(str, photographs), "--include", "dog", "grass"]) == 0
    assert behind == capsys.readouterr().out
    assert list(captions_of(behind)) == list(map(str, photographs))


def test_a_picture_beyond_the_limit_is_one_line(photographs, tmp_path):
    large = tmp_path / "large.png"
    Image.new("1", (10_000, 9_000)).save(large)
    command = [sys.executable, "-m", "captioner", "caption", str(large), str(photographs[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [
        f"skipped: {large} has more than 89,478,485 pixels, the limit; make it smaller first"
    ]


def test_json_holds_all_that_is_known_of_a_caption(checkpoint, photographs, broken, capsys):
    words = ["caption", str(photographs[0]), str(broken), "--checkpoint", str(checkpoint)]
    assert main([*words, "--num-captions", "2", "--beam-size", "5", "--json"]) == 1
    good, bad = json.loads(capsys.readouterr().out)
    (expected,) = captioner.load(checkpoint).captions(photographs[:1], num_captions=2, beam_size=5)
    assert good["image"] == str(photographs[0])
    for entry, caption in zip(good["captions"], expected, strict=True):
        assert entry["text"] == caption.text == " ".join(entry["tokens"])
        for key in ("log_prob", "probability", "score", "word_probabilities"):
            assert entry[key] == pytest.approx(getattr(caption, key), rel=1e-4)
        each = [*entry["word_probabilities"], entry["end_probability"] or 1.0]
        assert math.prod(each) == pytest.approx(entry["probability"], rel=1e-4)
        assert len(entry["word_probabilities"]) == len(entry["tokens"])
        assert entry["confidence"] is None
    assert bad["image"] == str(broken)
    assert "cannot be decoded" in bad["error"] or "not an image" in bad["error"]


def test_what_is_broken_or_missing_is_named_and_skipped(checkpoint, photographs, broken, capsys):
    missing = str(broken.with_name("missing.jpg"))
    empty = broken.with_name("empty")
    empty.mkdir()
    words = [missing, str(photographs[0]), str(broken), str(photographs[1]), str(empty), "x/*.jpg"]
    assert main(["caption", *words, "--checkpoint", str(checkpoint)]) == 1
    printed = capsys.readouterr()
    assert list(captions_of(printed.out)) == [str(photographs[0]), str(photographs[1])]
    skipped = printed.err.splitlines()
    assert all(line.startswith("skipped: ") for line in skipped)
    assert [name in line for name, line in zip(
        (missing, str(empty), "x/*.jpg", str(broken)), skipped, strict=True
    )] == [True] * 4  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jpg"], "no photograph to caption: nowhere.jpg: there is no such file"),
        (["{photograph}", "--beam-size", "0"], "--beam-size is 0; a beam holds 1"),
        (["{photograph}", "--num-captions", "0"], "--num-captions is 0"),
        (
            ["{photograph}", "--num-captions", "9" * 20],
            "--num-captions is 99999999999999999999; ask",
        ),
        (
            ["{photograph}", "--num-captions", "3", "--beam-size", "2"],
            "--num-captions is 3 and --beam-size 2; ask",
        ),
        (["{photograph}", "--max-length", "0"], "--max-length is 0"),
        (["{photograph}", "--top-k", "3"], "--top-k is 3 without --sample"),
        (["{photograph}", "--include", "xyzzy"], "--include holds 'xyzzy', which is not among"),
        (["{photograph}", "--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
        (["{photograph}", "--threads", "0"], "--threads is 0; it must be at least 1"),
        (["{photograph}", "--attention", "out.gif"], "--attention is out.gif; give a name ending"),
        (["{photograph}", "--device", "abacus"], "device is 'abacus', which this machine cannot"),
        (["{photograph}", "--checkpoint", "nowhere"], "nowhere"),
        (["https://example.com/dog.jpg"], "https://example.com/dog.jpg is a URL; fetch the"),
        ([], "there is no PHOTO; name an image"),
        (["--include", "dog"], "there is no PHOTO: --include takes 'dog' for words; name an"),
        (
            ["--exclude", "dog", "nothere.jpg"],
            "there is no PHOTO: --exclude takes 'dog', 'nothere.jpg' for words; name an image",
        ),
        (["{photograph}", "--include", ","], "--include is [','], which holds no word; give one"),
        (["{photograph}", "--exclude", ""], "--exclude is [''], which holds no word; give one"),
        (
            ["{photograph}", "--include", "", "--server", "http://localhost:1"],
            "--include is [''], which holds no word; give one",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(
    checkpoint, photographs, capsys, words, message
):
    words = [word.format(photograph=photographs[0]) for word in words]
    if not {"--checkpoint", "--server"} & set(words):
        words += ["--checkpoint", str(checkpoint)]
    assert main(["caption", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND; --help lists"),
        (["draw"], "invalid choice: 'draw'"),
        (["caption", "a.jpg", "--beam-size", "x"], "argument --beam-size: invalid int value: 'x'"),
        (["caption", "a.jpg", "--beam", "3"], "unrecognized arguments: --beam 3"),
        (["data", "convert"], "the following arguments are required"),
        (["export", "--precision", "int4"], "invalid choice: 'int4'"),
        (["caption-dataset", "x", "--ou", "y"], "unrecognized arguments: --ou y"),
        (["score", "a.json", "--boot", "9"], "unrecognized arguments: --boot"),
    ],
)
def test_what_is_no_command_line_is_one_line_and_status_2(words, message, capsys):
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_beam_beside_draws_is_said_to_count_for_nothing(checkpoint, photographs, capsys):
    words = ["caption", str(photographs[0]), "--checkpoint", str(checkpoint), "--sample"]
    words += ["--num-captions", "5", "--seed", "1"]
    assert main(words) == 0
    plain = capsys.readouterr()
    assert main([*words, "--beam-size", "3"]) == 0
    told = capsys.readouterr()
    assert (told.out, plain.err) == (plain.out, "")
    assert told.err == "note: --beam-size counts for nothing with --sample, which draws\n"


def test_without_a_checkpoint_the_model_in_the_box_is_taken(
    checkpoint, photographs, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("captioner.checkpoint_folders.SHIPPED", tmp_path / "none")
    assert main(["caption", str(photographs[0])]) == 2
    assert "has no model of its own in" in capsys.readouterr().err
    shutil.copytree(checkpoint, tmp_path / "runs" / "new" / "best")  # no run counts here
    monkeypatch.setattr("captioner.checkpoint_folders.SHIPPED", checkpoint)
    assert main(["caption", str(photographs[0])]) == 0
    said = capsys.readouterr()
    assert said.err == "using the model that comes with captioner; --checkpoint names another\n"
    assert said.out


def test_attention_is_drawn_for_every_photograph(checkpoint, photographs, broken, tmp_path, capsys):
    out = tmp_path / "attention.png"
    words = ["caption", "--checkpoint", str(checkpoint), "--attention", str(out), "--json"]
    assert main([*words, str(photographs[0])]) == 0
    printed = capsys.readouterr()
    (entry,) = json.loads(printed.out)
    assert entry["attention"] == str(out)
    assert entry["attributes"] == []
    assert entry["captions"][0]["attribute_attention"] is None
    assert entry["captions"][0]["shares"] == {}
    assert printed.err == f"attention of {photographs[0]} drawn in {out}\n"
    with Image.open(out) as picture:
        assert picture.format == "PNG"
    out.unlink()
    assert main([*words, str(photographs[0]), str(broken), str(photographs[1])]) == 1
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "attention-1.png",
        "attention-3.png",
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_no_photograph_is_drawn_over(checkpoint, tmp_path, capsys, count):
    photographs = [tmp_path / "dog.png", tmp_path / "dog-2.png"]
    for path in photographs:
        Image.new("RGB", (40, 30), "olive").save(path)
    before = [path.read_bytes() for path in photographs]
    out = tmp_path / "drawn.png"
    out.symlink_to(photographs[0])  # by another name
    out = out if count == 1 else photographs[0]
    words = ["caption", *map(str, photographs[:count]), "--checkpoint", str(checkpoint)]
    assert main([*words, "--attention", str(out)]) == 2
    printed = capsys.readouterr()
    named = out if count == 1 else photographs[1]
    assert printed.out == ""
    assert printed.err == (
        f"error: --attention would overwrite {named}, which is one of the files to read; "
        "give another name\n"
    )
    assert [path.read_bytes() for path in photographs] == before
    assert len(list(tmp_path.iterdir())) == 3


def test_attention_of_a_decoder_without_it_is_refused(tmp_path, photographs, capsys):
    folder = make_checkpoint(tmp_path / "show_tell", "show_tell")
    words = ["caption", str(photographs[0]), "--checkpoint", str(folder)]
    assert main([*words, "--attention", str(tmp_path / "a.png")]) == 2
    assert "no attention to draw" in capsys.readouterr().err
    assert main(words) == 0


def test_a_damaged_checkpoint_is_named(checkpoint, photographs, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    shutil.copytree(checkpoint, damaged)
    weights = damaged / "decoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    assert main(["caption", str(photographs[0]), "--checkpoint", str(damaged)]) == 2
    error = capsys.readouterr().err
    assert "decoder.safetensors" in error
    assert error.count("\n") == 1


def test_a_table_becomes_a_data_set_and_is_checked(photographs, capsys):
    folder = photographs[0].parent
    table = folder / "table.csv"
    rows = [f"{path.name},a dog runs on the grass" for path in photographs]
    table.write_text("\n".join(["image,caption", *rows]) + "\n")
    assert main(["data", "convert", str(table)]) == 0
    dataset = folder / "dataset_table.json"
    assert f"{dataset}: 2 train, 1 val, 1 test" in capsys.readouterr().out
    assert main(["data", "check", str(folder), "--json"]) == 0
    capsys.readouterr()
    photographs[1].write_bytes(photographs[1].read_bytes()[:400])
    assert main(["data", "check", str(dataset)]) == 1
    assert photographs[1].name in capsys.readouterr().out
    assert main(["data", "convert", str(folder / "none.csv")]) == 2


def test_captions_are_scored_with_the_keys_of_pycocoevalcap(tmp_path, capsys):
    pairs = tmp_path / "pairs.json"
    captions = {"dog.jpg": "a dog runs on the grass", "cat.jpg": "a cat sits on a red mat"}
    pairs.write_text(
        json.dumps(
            [
                {"image_name": name, "captions": [text, "something else"], "prediction": text}
                for name, text in captions.items()
            ]
        )
    )
    out = tmp_path / "scores.json"
    assert main(["score", str(pairs), "--json", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("note: CIDEr needs more images: ")
    scores = json.loads(printed.out)
    written = json.loads(out.read_text())
    for key in ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L"):
        assert scores[key] == written[key] == pytest.approx(1.0, abs=1e-6)
    assert scores["CIDEr"] > 0
    assert {entry["image_id"] for entry in written["images"]} == set(captions)
    assert main(["score", str(pairs), str(pairs)]) == 2
    assert "holds candidates beside its references" in capsys.readouterr().err


def run(words: list[str], **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "captioner", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def test_a_reader_that_has_gone_is_no_reason_to_complain(photographs):
    table = photographs[0].with_name("table.jsonl")
    table.write_text(json.dumps({"image": photographs[0].name, "caption": "a dog"}) + "\n")
    with run(["data", "convert", str(table)], stdout=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.usefixtures("usual_signals")
def test_a_second_sigterm_takes_nothing_from_what_is_written_at_the_end(capsys, monkeypatch):
    def work(*_: object) -> int:
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            print("what was made")
        return 0

    monkeypatch.setattr("captioner.commands.score.run", work)
    assert main(["score", "references.json"]) == 143
    assert capsys.readouterr() == ("what was made\n", "interrupted\n")


@pytest.mark.usefixtures("usual_signals")
def test_sigterm_stays_with_who_handles_it(monkeypatch):
    def of_the_program(*_: object) -> None: ...

    seen = []

    def work(*_: object) -> int:
        seen.append(signal.getsignal(signal.SIGTERM))
        return 0

    monkeypatch.setattr("captioner.commands.score.run", work)
    with ThreadPoolExecutor() as threads:  # where no signal can be handled
        assert threads.submit(main, ["score", "references.json"]).result() == 0
    before = signal.signal(signal.SIGTERM, of_the_program)
    try:
        assert main(["score", "references.json"]) == 0
        assert signal.getsignal(signal.SIGTERM) is of_the_program
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIG_DFL, of_the_program]


def test_a_forwarded_program_ends_with_the_status_of_sigterm(capsys):
    def work() -> None:
        raise Terminated

    assert run_program("calibrate.py", work) == 143
    assert capsys.readouterr().err == "calibrate.py: interrupted\n"


def test_ctrl_c_ends_with_one_line(capsys, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("captioner.metrics.score_files.read_signed_pairs", interrupted)
    assert main(["score", "references.json"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_standard_output_is_one_line(photographs):
    table = photographs[0].with_name("table.jsonl")
    table.write_text(json.dumps({"image": photographs[0].name, "caption": "a dog"}) + "\n")
    with (
        open("/dev/full", "w") as full,
        run(["data", "convert", str(table)], stdout=full) as process,
    ):
        assert process.stderr.read() == "error: [Errno 28] No space left on device\n"
    assert process.returncode == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve", "--port", "x"], "error: --port is 'x'; give a whole number\n"),
        (
            ["train", "--p", "2"],
            "captioner train: --p is 2.0; a probability lies between 0 and 1\n",
        ),
    ],
)
def test_other_packages_get_the_arguments_and_the_program_s_name(words, told, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("name", ["serve", "train", "calibrate"])
def test_what_is_not_installed_is_said_with_the_extra_that_brings_it(name, capsys, monkeypatch):
    extra = "serving" if name == "serve" else "training"
    program = replace(forwarded.PROGRAMS[name], module="no_such_package.x")
    monkeypatch.setitem(forwarded.PROGRAMS, name, program)
    assert main([name, "--help"]) == 2
    assert capsys.readouterr().err == (
        f"error: captioner {name} needs the extra `{extra}` of captioner (no_such_package is not "
        f"installed here); run: pip install 'captioner[{extra}]'\n"
    )


def test_the_service_says_in_a_line_that_it_is_not_installed(capsys, monkeypatch):
    finding = extras.find_spec
    monkeypatch.setattr(
        extras, "find_spec", lambda name: None if name == "uvicorn" else finding(name)
    )
    assert main(["serve", "--port", "0"]) == 2
    assert capsys.readouterr().err == (
        "error: captioner serve needs the extra `serving` of captioner (uvicorn is not installed "
        "here); run: pip install 'captioner[serving]'\n"
    )


@pytest.mark.parametrize("name", ["captioner.x", "serving.x", "training"])
def test_a_missing_module_of_our_own_is_no_missing_extra(name):
    with pytest.raises(ModuleNotFoundError), needing("training", "it"):
        raise ModuleNotFoundError(name=name)


def test_the_versions_agree(capsys):
    import tomllib

    root = Path(__file__).resolve().parent.parent
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"captioner {version}\n"
    assert captioner.__version__ == version


def test_json_with_attention_says_what_was_found_in_the_photograph(photographs, tmp_path, capsys):
    words = ["caption", str(photographs[0]), "--json", "--attention", str(tmp_path / "a.png")]
    assert main(words) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    (caption,) = captioner.load().caption(photographs[:1])
    found = [(one["word"], one["probability"]) for one in entry["attributes"]]
    assert found == [tuple(one) for one in caption.attributes]
    assert len(found) == 5
    looked = entry["captions"][0]["attribute_attention"]
    np.testing.assert_allclose(looked, caption.attribute_attention, atol=1e-6)
