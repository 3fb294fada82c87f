"""Token ids and texts of the tokenizers of encoders with decoders, from the files that transformers has of them: those
of its own classes, on odd lines."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")

import sentencepiece

import pyengine
from pyengine.errors import InputError, OptionError
from pyengine.importers import open_checkpoint
from pyengine.importers.tokenizer_files import find_tokenizer
from pyengine.quantize import convert
from pyengine.text import MultilingualTokenizer, Tokenizer, open_tokenizer
from tests.text.odd_lines import odd_lines

from .checkpoints import save
from .seq2seq import LINE_SIZES, line_model

LINES = odd_lines()


def trained(kind: str, **changes: Any) -> bytes:
    """A model of odd lines."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line.replace("\0", "") for line in LINES]), model_writer=model, model_type=kind,
        vocab_size=3500, hard_vocab_limit=False, character_coverage=0.98, minloglevel=2, **changes,
    )  # fmt: skip
    return model.getvalue()


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    fairseq = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    return {
        "t5": trained("unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
        "pegasus": trained("unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
        "fairseq": trained("unigram", **fairseq),
        "pairs": trained("bpe", bos_id=0, pad_id=1, eos_id=2, unk_id=3),
    }


def converted(directory: Path, config: dict[str, Any] | None = None) -> Tokenizer:
    """What an import would write, opened again."""
    kind, files = find_tokenizer(directory, config or {})
    assert kind is not None
    place = directory / "converted"
    place.mkdir()
    for name, source in files.items():
        (place / name).write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    return open_tokenizer(place, kind)


def agree(tokenizer: Tokenizer, theirs: Any) -> None:
    """On the ids of all lines, and on what becomes of them.

    The package reads scores of a tokenizer.json with another last bit than transformers hands it: of two ways to cut a
    run of one character, which are equally good, each may come first.
    """
    ties = 0
    for line in LINES:
        ids, own = theirs(line).input_ids, tokenizer.encode_source(line)
        ties += own != ids
        assert sorted(own) == sorted(ids), line
        shown = ids[1:] if isinstance(theirs, transformers.M2M100Tokenizer) else ids  # version 5 shows the language
        assert tokenizer.decode(ids) == theirs.decode(shown, skip_special_tokens=True), line
    assert ties <= 5


def from_model(directory: Path, models: dict[str, bytes], name: str, model: str, file: str) -> Any:
    """A tokenizer of the class ``name`` from a SentencePiece model alone."""
    (directory / file).write_bytes(models[model])
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    return getattr(transformers, name).from_pretrained(directory)


MODELS = {
    "T5Tokenizer": ("t5", "spiece.model"),
    "PegasusTokenizer": ("pegasus", "spiece.model"),
    "MBartTokenizer": ("fairseq", "sentencepiece.bpe.model"),
    "MBart50Tokenizer": ("fairseq", "sentencepiece.bpe.model"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("written", (False, True), ids=("the model", "tokenizer.json"))
def test_a_sentencepiece_model(tmp_path: Path, models: dict[str, bytes], name: str, written: bool) -> None:
    """From the model, and from the tokenizer.json that transformers writes of it."""
    theirs = from_model(tmp_path, models, name, *MODELS[name])
    if written:
        theirs.save_pretrained(tmp_path)
        assert (tmp_path / "tokenizer.json").exists()
    agree(converted(tmp_path), theirs)


def languages_agree(tokenizer: Tokenizer, theirs: Any, codes: tuple[str, ...]) -> MultilingualTokenizer:
    """On sources in several languages, and on the one of which nothing is said."""
    assert isinstance(tokenizer, MultilingualTokenizer)
    agree(tokenizer, theirs)
    for code in codes:
        theirs.src_lang = code
        for line in LINES[::20]:
            assert tokenizer.encode_from(line, code) == theirs(line).input_ids, (code, line)
        assert tokenizer.languages.id(code, "target") == theirs.convert_tokens_to_ids(token_of(theirs, code))
    return tokenizer


def token_of(theirs: Any, code: str) -> str:
    return f"__{code}__" if isinstance(theirs, transformers.M2M100Tokenizer) else code


@pytest.mark.parametrize("name", ("MBartTokenizer", "MBart50Tokenizer"))
@pytest.mark.parametrize("written", (False, True), ids=("the model", "tokenizer.json"))
def test_languages_of_mbart(tmp_path: Path, models: dict[str, bytes], name: str, written: bool) -> None:
    theirs = from_model(tmp_path, models, name, *MODELS[name])
    if written:
        theirs.save_pretrained(tmp_path)
    tokenizer = languages_agree(converted(tmp_path), theirs, ("en_XX", "de_DE", "ro_RO"))
    assert tokenizer.languages.starts == (name == "MBartTokenizer")


@pytest.mark.parametrize("legacy", (False, True))
def test_languages_of_nllb(tmp_path: Path, models: dict[str, bytes], legacy: bool) -> None:
    """From a tokenizer.json; a source that is said to be French unless it is said to be something else."""
    (tmp_path / "sentencepiece.bpe.model").write_bytes(models["pairs"])
    plain = transformers.NllbTokenizer.from_pretrained(tmp_path)  # which knows no language then
    (tmp_path / "sentencepiece.bpe.model").unlink()
    parts = {"vocab": plain._vocab, "merges": plain._merges, "legacy_behaviour": legacy}
    theirs = transformers.NllbTokenizer(**parts, src_lang="fra_Latn")
    theirs.save_pretrained(tmp_path)
    tokenizer = languages_agree(converted(tmp_path), theirs, ("eng_Latn", "deu_Latn", "zho_Hans"))
    assert not tokenizer.languages.starts and len(tokenizer.languages.codes) > 200
    with pytest.raises(OptionError, match="target is 'deu_Latm'; expected .* one of 202 languages, such as .*deu_Latn"):
        tokenizer.languages.id("deu_Latm", "target")
    with pytest.raises(OptionError, match="source is None"):
        tokenizer.encode_from("a", None)


@pytest.mark.parametrize("codes", ("m2m100", "wmt21"))
def test_languages_of_m2m100(tmp_path: Path, models: dict[str, bytes], codes: str) -> None:
    """From a SentencePiece model and a vocabulary, which is ordered in another way and lacks some pieces."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=models["pairs"])
    pieces = [processor.id_to_piece(i) for i in range(4, processor.get_piece_size() - 100)]
    vocabulary = {piece: i for i, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *reversed(pieces)])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "sentencepiece.bpe.model").write_bytes(models["pairs"])
    theirs = transformers.M2M100Tokenizer(
        str(tmp_path / "vocab.json"), str(tmp_path / "sentencepiece.bpe.model"), language_codes=codes
    )
    theirs.save_pretrained(tmp_path)
    languages_agree(converted(tmp_path), theirs, ("en", "de", "zh"))


@pytest.mark.filterwarnings("ignore:This sequence already has")
def test_bytes(tmp_path: Path) -> None:
    """A line that has U+FFFD of its own loses it where transformers keeps it."""
    theirs = transformers.ByT5Tokenizer()
    theirs.save_pretrained(tmp_path)
    tokenizer = converted(tmp_path)
    for line in LINES:
        ids = theirs(line).input_ids
        assert tokenizer.encode_source(line) == ids + [1] * line.rstrip().endswith("</s>"), line
        text = theirs.decode(ids, skip_special_tokens=True).replace("\ufffd", "")
        stream = tokenizer.stream()
        assert "".join([*map(stream.push, ids), stream.finish()]) == tokenizer.decode(ids) == text, line
    broken = [3 + byte for byte in "ä€".encode()[:4]]
    assert tokenizer.decode(broken) == theirs.decode(broken) == "ä"
    assert tokenizer.encode_source("a <extra_id_7> b") == theirs("a <extra_id_7> b").input_ids
    assert tokenizer.encode_target("ab", end=False) == [100, 101]
    with pytest.raises(InputError):
        tokenizer.decode([len(theirs) + 1])


@pytest.mark.parametrize("name", ("NllbTokenizer", "MBartTokenizer"))
def test_translations(tmp_path: Path, models: dict[str, bytes], name: str) -> None:
    """From a whole checkpoint to texts in the languages that are asked for, as transformers writes them."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    if name == "NllbTokenizer":
        (checkpoint / "sentencepiece.bpe.model").write_bytes(models["pairs"])
        plain = transformers.NllbTokenizer.from_pretrained(checkpoint)
        words = transformers.NllbTokenizer(vocab=plain._vocab, merges=plain._merges)
        model = line_model(transformers.M2M100ForConditionalGeneration(
            transformers.M2M100Config(**{**LINE_SIZES, "vocab_size": len(words)})
        ))  # fmt: skip
        codes = ("eng_Latn", "deu_Latn", "fra_Latn")
    else:
        words = from_model(checkpoint, models, name, *MODELS[name])
        model = line_model(transformers.MBartForConditionalGeneration(
            transformers.MBartConfig(**{**LINE_SIZES, "vocab_size": len(words)}, decoder_start_token_id=0)
        ))  # fmt: skip
        codes = ("en_XX", "de_DE", "fr_XX")
    words.save_pretrained(checkpoint)
    save(checkpoint, model)
    convert(open_checkpoint(checkpoint), tmp_path / "model", weights="float32")
    double = model.double()
    with pyengine.load(tmp_path / "model", task=pyengine.Translator, threads=1) as translator:
        assert set(codes) <= set(translator.info()["languages"])
        for source, target in (codes[:2], codes[1:], codes[::-2]):
            words.src_lang = source
            for line in ["Zwei Hunde.", "a b c", "Wie?"]:
                found = translator.translate(line, source=source, target=target, num_beams=2, max_new_tokens=8)
                ids, id = words(line, return_tensors="pt").input_ids, words.convert_tokens_to_ids(target)
                first = {"decoder_start_token_id" if name == "MBartTokenizer" else "forced_bos_token_id": id}
                output = double.generate(ids, num_beams=2, max_new_tokens=8, do_sample=False, **first)[0, 1:].tolist()
                assert list(found.ids) == [each for each in output if each not in (1, 2)][: len(found.ids)], line
                assert found.text == words.decode(output, skip_special_tokens=True)
