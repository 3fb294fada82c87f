"""The report of a conversion: its figures are those of the directory that was written, its text was held out."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu

import pyengine
from pyengine.importers import open_checkpoint
from pyengine.modelfile import open_directory
from pyengine.quantize import Calibration, convert, main
from pyengine.quantize.measuring.divergence import divergence
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.opening import read_matrix
from pyengine.quantize.prune.masks import Blocks
from pyengine.quantize.report.conversion import Reporter
from pyengine.quantize.scaling.scaling import Scaled
from pyengine.quantize.seeing.calibration import in_memory_engine
from pyengine.scheduling.deadline import Deadline
from pyengine.tasks.forcing import target_log_probs
from pyengine.tasks.inputs import Inputs, Sample
from pyengine.tasks.translator import Translator
from pyengine.text import open_tokenizer

from ...checkpoints import handmade

EXAMPLE = Path(__file__).parents[3] / "examples" / "multi30k-de-en"
LINES = 120  # of which 12 are held out
LAYER = "encoder.layers.1.ffn.down"
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    german, english = ((EXAMPLE / f"test_2016_flickr.{side}").read_text("utf-8").splitlines() for side in ("de", "en"))
    return list(zip(german, english, strict=True))[:LINES]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> Path:
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A folder with the model "out" and its report "page", both made by the command."""
    folder = tmp_path_factory.mktemp("int4")
    assert main(arguments(folder, text)) == 0
    return folder


def arguments(folder: Path, text: Path) -> list[str]:
    words = [EXAMPLE, "-o", folder / "out", "--weights", "int4", "--report", folder / "page"]
    return [*map(str, words), "--calibrate", str(text), "--method", "weighted"]


def report_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "report.json").read_text("utf-8"))
    return found


class Tags(HTMLParser):
    """Fails on a tag that is closed in the wrong place."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(page.read_text("utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_of_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(EXAMPLE), "-o", str(tmp_path / "out"), "--report", str(tmp_path / "a page")]
    assert main(words) == 0
    Tags(tmp_path / "a page" / "index.html")
    found = report_of(tmp_path / "a page")
    assert shlex.split(found["command"]) == ["pyengine-quantize", *words]
    assert found["end_to_end"] is None and found["calibration"] is None and found["notes"] == []
    model = open_checkpoint(EXAMPLE)
    rows = {each["name"]: each for each in found["layers"]}
    for each in rows.values():
        assert (each["type_before"], each["type_after"], each["method"]) == ("float16", "int8", "absmax")
        assert each["bytes_before"] == 2 * math.prod(each["shape"])
        weights = np.concatenate([model.tensors[part].read() for part in each["parts"]])
        edges = each["histogram"]["edges"]
        assert (edges[0], edges[-1], len(edges)) == (weights.min(), weights.max(), 65)
        assert sum(each["histogram"]["counts"]) == weights.size
        middle = ((weights >= edges[20]) & (weights < edges[21])).sum()
        assert each["histogram"]["counts"][20] == middle
    stored = capsys.readouterr().out
    row = next(line.split() for line in stored.splitlines() if line.startswith(LAYER))
    assert f"{rows[LAYER]['snr_db']:.1f}" == row[-1] and f"{rows[LAYER]['bytes_after']:,}" == row[-2]


def test_the_page_of_int4(int4: Path, text: Path) -> None:
    Tags(int4 / "page" / "index.html")
    found = report_of(int4 / "page")
    assert shlex.split(found["command"])[1:] == arguments(int4, text)
    methods = {(each["type_after"], each["method"]) for each in found["layers"]}
    assert methods == {("int4g64", "weighted"), ("int8", "absmax")}
    assert found["calibration"]["lines"] == LINES and found["calibration"]["files"] == [str(text)]
    assert all(0 < each["output_error"] < 0.1 for each in found["layers"])


@pytest.mark.exhaustive
def test_the_same_bytes_twice(int4: Path, text: Path) -> None:
    before = {each.name: each.read_bytes() for each in (int4 / "page").iterdir()}
    assert sorted(before) == ["index.html", "report.json"]
    assert main([*arguments(int4, text), "--overwrite"]) == 0
    after = {each.name: each.read_bytes().replace(b" --overwrite", b"") for each in (int4 / "page").iterdir()}
    assert after == before


def test_calibration_does_not_see_what_is_held_out(int4: Path, tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    """The directory is that of a calibration on the first nine tenths, byte by byte."""
    convert(EXAMPLE, tmp_path / "out", weights="int4g64", calibration=Calibration(pairs[: LINES * 9 // 10], "weighted"))
    weights = [(folder / "out" / "model.safetensors").read_bytes() for folder in (tmp_path, int4)]
    assert weights[0] == weights[1]


def test_divergence_is_that_of_the_held_out_lines(
    int4: Path, float32_directory: Path, pairs: list[tuple[str, str]]
) -> None:
    with Reader.open(float32_directory) as a, Reader.open(int4 / "out") as b:
        expected = divergence(a, b, pairs[LINES * 9 // 10 :])
    found = report_of(int4 / "page")["end_to_end"]
    assert found["tokens"] == expected.tokens and found["top1_agreement"] == expected.top1
    assert found["kl_divergence"] == pytest.approx(expected.kl, rel=1e-6) and expected.kl > 0


def test_output_errors_are_of_what_the_layer_reads(int4: Path, pairs: list[tuple[str, str]]) -> None:
    """Against the products themselves, of the inputs that the float32 model shows."""
    model = open_checkpoint(EXAMPLE)
    config = model.config
    assert model.tokenizer_kind is not None
    tokenizer = open_tokenizer(
        EXAMPLE, model.tokenizer_kind, source_vocab=config.source_vocab, target_vocab=config.target_vocab
    )
    inputs = Inputs(config, model.generation.eos_token_id, tokenizer)
    ids = [
        Sample(inputs.source(source, truncate=False).ids, inputs.target(target))
        for source, target in pairs[LINES * 9 // 10 :]
    ]
    seen: list[np.ndarray] = []
    with Translator(in_memory_engine(config, model.generation, model.tensors), tokenizer, {}) as translator:
        engine = translator._engine
        with engine.session(Deadline(), 1, lambda name, x: seen.append(x.copy()) if name == LAYER else None) as session:
            start = model.generation.decoder_start_token_id
            target_log_probs(session, config, ids, start, budget=512, deadline=Deadline())
    x = np.concatenate(seen).astype(np.float64)
    matrix = model.tensors[f"{LAYER}.weight"].read()
    stored = read_matrix(open_directory(int4 / "out"), LAYER)
    expected = ((x @ (matrix - stored).T) ** 2).sum() / ((x @ matrix.T) ** 2).sum()
    row = next(each for each in report_of(int4 / "page")["layers"] if each["name"] == LAYER)
    assert row["output_error"] == pytest.approx(expected, rel=1e-4)
    peaks = np.abs(x).max(axis=0)
    ratios = peaks / np.median(peaks)
    largest = [int(channel) for channel in np.argsort(-ratios, kind="stable")[:8] if ratios[channel] >= 4]
    assert [each["channel"] for each in row["outliers"]] == largest


def test_too_little_text_to_hold_out(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    reporter = Reporter(EXAMPLE, tmp_path / "out", tmp_path / "page", text=pairs[:9], file="text")
    assert reporter.calibration == pairs[:9]
    reporter.write(convert(EXAMPLE, tmp_path / "out"), method="absmax", command="command")
    found = report_of(tmp_path / "page")
    assert found["end_to_end"] is None and found["calibration"]["held_out_tokens"] == 0
    assert "fewer than 10 lines" in found["notes"][0]


def test_at_most_200_lines_are_held_out(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    reporter = Reporter(EXAMPLE, tmp_path / "out", tmp_path / "page", text=pairs[:100] * 30, file="text")
    assert reporter.calibration == pairs[:100] * 28


def test_another_vocabulary_is_a_note(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    reporter = Reporter(EXAMPLE, tmp_path / "out", tmp_path / "page", text=pairs, file="text")
    reporter.write(
        convert(handmade.write_checkpoint(tmp_path / "in"), tmp_path / "out"), method="absmax", command="command"
    )
    found = report_of(tmp_path / "page")
    assert found["end_to_end"] is None and "vocabulary" in found["notes"][0]
    rows = {each["name"]: each for each in found["layers"]}
    assert rows["encoder.layers.0.ffn.up"]["histogram"] is None
    assert rows["encoder.layers.0.ffn.up"]["bytes_before"] == 2 * 1024 * 256


@pytest.mark.exhaustive
def test_a_trimmed_vocabulary_is_compared_on_lines_that_it_has(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    """float32 logits of kept tokens are the original's, so nothing is lost; int8 is held to the formula."""
    held = pairs[-12:]
    vocabulary = [*pairs[:40], *held[:5]]
    rows = {}
    for weights in ("float32", "int8"):
        out, page = tmp_path / weights, tmp_path / f"{weights} page"
        reporter = Reporter(EXAMPLE, out, page, text=pairs, file="text")
        done = convert(EXAMPLE, out, weights=weights, vocabulary=vocabulary)
        reporter.write(done, method="absmax", command="command")
        rows[weights] = report_of(page)
    kept = done.kept
    assert kept is not None
    exact = rows["float32"]["end_to_end"]
    assert exact["kl_divergence"] < 1e-12 and exact["top1_agreement"] == 1.0

    model = open_checkpoint(EXAMPLE)
    assert model.tokenizer_kind is not None
    config = model.config
    tokenizer = open_tokenizer(
        EXAMPLE, model.tokenizer_kind, source_vocab=config.source_vocab, target_vocab=config.target_vocab
    )
    kl, same, shares, own, log_probs, texts = [], [], [], [], ([], []), ([], [])
    engine = in_memory_engine(config, model.generation, model.tensors)
    with Translator(engine, tokenizer, {}) as a, pyengine.load(tmp_path / "int8") as b:
        for source, target in held:
            ids = tokenizer.encode_source(source), tokenizer.encode_target(target, end=True)
            if set(ids[0]) <= set(kept.source.tolist()) and set(ids[1]) <= set(kept.target.tolist()):
                own.append(target)
                p = np.exp(a.logits(source, target).astype(np.float64))
                p, share = p[:, kept.target], p[:, kept.target].sum(axis=1) / p.sum(axis=1)
                q = np.exp(b.logits(source, target).astype(np.float64))  # the text, as its own tokenizer reads it
                p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
                labels = np.searchsorted(kept.target, ids[1])
                for place, (each, probs) in enumerate(((a, p), (b, q))):
                    log_probs[place].extend(np.log(probs[np.arange(len(labels)), labels]))
                    texts[place].append(each.translate(source).text)
                kl += (p * np.log(p / q)).sum(axis=1).tolist()
                same += (p.argmax(axis=1) == q.argmax(axis=1)).tolist()
                shares += share.tolist()
    found = rows["int8"]["end_to_end"]
    lines = len(own)
    assert 5 <= lines < 12 and found["tokens"] == exact["tokens"] == len(kl)
    assert found["kl_divergence"] == pytest.approx(np.mean(kl), rel=1e-6) and found["kl_divergence"] > 1e-6
    assert found["top1_agreement"] == np.mean(same)
    for place, name in enumerate(("before", "after")):
        assert found["perplexity"][name] == pytest.approx(math.exp(-np.mean(log_probs[place])), rel=1e-6)
        bleu = sacrebleu.corpus_bleu(texts[place], [own]).score
        assert found["bleu"][name] == pytest.approx(bleu, abs=1e-9)
    assert exact["perplexity"]["before"] == pytest.approx(exact["perplexity"]["after"], rel=1e-6)
    [note] = rows["int8"]["notes"]
    assert f"the {lines} of 12 held-out lines" in note and f"{100 * np.mean(shares):.2f} % of the probability" in note
    assert rows["int8"]["layers"][1]["output_error"] > 0


@pytest.mark.exhaustive
def test_a_trimmed_vocabulary_that_has_no_held_out_line(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    reporter = Reporter(EXAMPLE, tmp_path / "out", tmp_path / "page", text=pairs, file="text")
    done = convert(EXAMPLE, tmp_path / "out", vocabulary=[("Ein Hund.", "A dog.")])
    reporter.write(done, method="absmax", command="command")
    found = report_of(tmp_path / "page")
    assert found["end_to_end"] is None and "no held-out line of 12" in found["notes"][0]
    assert found["layers"][1]["output_error"] > 0


@pytest.mark.exhaustive
def test_what_was_removed_and_what_zeros_cost(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    reporter = Reporter(EXAMPLE, tmp_path / "out", tmp_path / "page", text=pairs, file="text")
    calibration = Calibration(reporter.calibration, "absmax")
    prune = {"ffn": 0.1, "encoder_layers": 0.25}
    report = convert(EXAMPLE, tmp_path / "out", calibration=calibration, prune=prune, sparse=Blocks(0.3))
    reporter.write(report, method="absmax", command="command")
    rows = {(each["what"], each["layer"]): each for each in report_of(tmp_path / "page")["pruned"]}
    assert (rows["layers", "encoder"]["removed"], rows["layers", "encoder"]["total"]) == (1, 4)
    assert {each.layer for each in report.removed} == {layer for what, layer in rows if what != "weights"}
    for masked in report.masked:
        row = rows["weights", masked.name]
        assert row["removed"] / row["total"] == pytest.approx(masked.share, abs=1e-4)
        assert (row["error"]["before"], row["error"]["after"]) == pytest.approx((masked.error_before, masked.error))
    Tags(tmp_path / "page" / "index.html")


@pytest.mark.exhaustive
def test_the_choices_of_mixed_types(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    """The curve from all in the smallest type to all int8: more bytes, no more error. The one taken is on the page."""
    reporter = Reporter(EXAMPLE, tmp_path / "out", tmp_path / "page", text=pairs, file="text")
    calibration = Calibration(reporter.calibration, target_bytes=4_500_000)
    report = convert(EXAMPLE, tmp_path / "out", calibration=calibration)
    reporter.write(report, method="gptq", command="command")
    chosen, *others = report_of(tmp_path / "page")["pareto"]
    assert chosen["chosen"] and not any(each["chosen"] for each in others)
    assert chosen["bytes"] <= 4_500_000 and chosen["bytes"] == report.stored_bytes
    assert [each["bytes"] for each in others] == sorted({each["bytes"] for each in others})
    errors = [each["error"] for each in others]
    assert errors == sorted(errors, reverse=True) and len(others) > 10
    assert others[-1]["label"] == "31 int8" and "pareto" in (tmp_path / "page" / "index.html").read_text("utf-8")


def test_perplexity_and_bleu_of_given_translations(
    int4: Path, float32_directory: Path, pairs: list[tuple[str, str]]
) -> None:
    found = report_of(int4 / "page")["end_to_end"]
    sources, targets = zip(*pairs[LINES * 9 // 10 : LINES], strict=True)
    for place, path in (("before", float32_directory), ("after", int4 / "out")):
        with pyengine.load(path) as translator:
            scores = translator.score(list(sources), list(targets))
            mean = sum(sum(each.log_probs) for each in scores) / sum(len(each.ids) for each in scores)
            assert found["perplexity"][place] == pytest.approx(math.exp(-mean), rel=1e-6)
            texts = [each.text for each in translator.translate(list(sources))]
            expected = sacrebleu.corpus_bleu(texts, [list(targets)]).score
            assert found["bleu"][place] == pytest.approx(expected, abs=1e-9)


@pytest.mark.exhaustive
def test_without_translations_or_sacrebleu(
    tmp_path: Path, pairs: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(EXAMPLE, tmp_path / "out")
    alone = [(source, None) for source, _ in pairs[:40]]
    Reporter(EXAMPLE, tmp_path / "out", tmp_path / "a", text=alone).write(
        convert(EXAMPLE, tmp_path / "out", overwrite=True), method="absmax", command="command"
    )
    found = report_of(tmp_path / "a")
    assert found["end_to_end"]["perplexity"] is None and found["end_to_end"]["bleu"] is None and found["notes"] == []
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    Reporter(EXAMPLE, tmp_path / "out", tmp_path / "b", text=pairs[:40]).write(
        convert(EXAMPLE, tmp_path / "out", overwrite=True), method="absmax", command="command"
    )
    found = report_of(tmp_path / "b")
    assert found["end_to_end"]["perplexity"] is not None and found["end_to_end"]["bleu"] is None
    assert found["notes"] == ["BLEU was not measured: sacrebleu is not installed."]


@pytest.mark.exhaustive
def test_speed_is_measured_when_asked_for(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(EXAMPLE), "-o", str(tmp_path / "out"), "--report", str(tmp_path / "page")]
    assert main([*words, "--calibrate", str(text), "--speed"]) == 0
    rows = report_of(tmp_path / "page")["speed"]
    assert [row["setting"] for row in rows] == ["one sentence at a time", f"{LINES // 10} sentences in one call"]
    assert all(min(row["float32"], row["int8"], row["compressed"]) > 0 for row in rows)
    Tags(tmp_path / "page" / "index.html")
    with pytest.raises(SystemExit):
        main([*words, "--speed", "--overwrite"])
    assert "--speed has a meaning with --report and --calibrate only" in capsys.readouterr().err


def test_layers_between_which_scales_moved_have_no_error(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    reporter = Reporter(EXAMPLE, tmp_path / "out", tmp_path / "page", text=pairs, file="text")
    report = convert(EXAMPLE, tmp_path / "out", equalize=True)
    reporter.write(report, method="absmax", command="command")
    found = report_of(tmp_path / "page")
    errors = {each["name"]: each["output_error"] for each in found["layers"]}
    without = {name for name, error in errors.items() if error is None}
    assert without >= {"encoder.layers.0.self_attention.qkv", "encoder.layers.0.self_attention.output"}
    assert 0 < errors["decoder.layers.0.cross_attention.q"] < 0.01
    assert any("Scales of channels were moved" in note for note in found["notes"])


@pytest.mark.exhaustive
def test_scales_are_found_in_a_stack_that_lost_layers(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    """The last norm of three encoder layers feeds every cross-attention, under the numbers of what was written."""
    reporter = Reporter(EXAMPLE, tmp_path / "out", tmp_path / "page", text=pairs, file="text")
    calibration = Calibration(reporter.calibration, "absmax")
    made = convert(EXAMPLE, tmp_path / "out", calibration=calibration, prune={"encoder_layers": 0.25})
    scaled = (Scaled("encoder.layers.2.ffn.norm", "smooth", 0.5, 0.2, 0.1),)
    reporter.write(replace(made, scaled=scaled), method="absmax", command="command")
    errors = {each["name"]: each["output_error"] for each in report_of(tmp_path / "page")["layers"]}
    assert errors["decoder.layers.0.cross_attention.kv"] is None
    assert errors["decoder.layers.0.cross_attention.q"] > 0
