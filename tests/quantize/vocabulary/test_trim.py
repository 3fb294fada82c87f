"""A trimmed vocabulary: the same pieces under new ids, the same rows, the same logits, the same translations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

import pyengine
from pyengine.canonical import CanonicalModel, HeadConfig, LazyTensor
from pyengine.errors import InputError, OptionError, TokenizerError, UnsupportedError
from pyengine.importers import open_checkpoint
from pyengine.importers.tokenizer_files import find_tokenizer
from pyengine.modelfile import write_directory
from pyengine.quantize.packing import pack_tensors
from pyengine.quantize.vocabulary.trim import KeptTokens, TrimmedVocabulary, trim_vocabulary
from pyengine.text import Tokenizer, open_tokenizer
from tests.oracle.tiny import generation, model_config, random_tensors

from ...text.models import ENGLISH, GERMAN, VARIANTS
from ...text.odd_lines import odd_lines

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "multi30k-de-en"
PAIRS = tuple(zip(GERMAN[:2], ENGLISH[:2]))


def canonical(directory: Path, **changes: Any) -> CanonicalModel:
    """A tiny model for the tokenizer files in ``directory``."""
    kind, files = find_tokenizer(directory, {})
    tokenizer = open_tokenizer(directory, str(kind))
    same = tokenizer.source_size == tokenizer.target_size
    separate = kind == "sentencepiece" and "target_vocab.json" in files
    sizes = {"source_vocab": tokenizer.source_size, "target_vocab": tokenizer.target_size}
    config = model_config(**{**sizes, "share_embeddings": same and not separate, "tie_output": True, **changes})
    tensors = {
        name: LazyTensor(name, values.shape, "float32", lambda values=values: values)
        for name, values in random_tensors(config, 1).items()
    }
    end, pad = tokenizer.encode_target("", end=True)[-1:] or [0], tokenizer.encode_target("<pad>", end=False)[-1]
    defaults = generation(decoder_start_token_id=pad, eos_token_id=tuple(end), pad_token_id=pad)
    return CanonicalModel(config, defaults, tensors, kind, files)


def opened(model: CanonicalModel) -> Tokenizer:
    directory = next(iter(model.tokenizer_files.values())).parent
    sizes = {"source_vocab": model.config.source_vocab, "target_vocab": model.config.target_vocab}
    return open_tokenizer(directory, str(model.tokenizer_kind), **sizes)


def trim(model: CanonicalModel, text: Sequence[tuple[Any, Any]], directory: Path) -> TrimmedVocabulary:
    directory.mkdir()
    return trim_vocabulary(model, text, directory)


def check(model: CanonicalModel, text: Sequence[tuple[str, str]], found: TrimmedVocabulary) -> None:
    """What holds for any model and text."""
    old, new = opened(model), opened(found.model)
    for source, target in text:
        ids = new.encode_source(source)
        assert found.source_ids[ids].tolist() == old.encode_source(source)
        for end in (False, True):
            ids, wanted = new.encode_target(target, end=end), old.encode_target(target, end=end)
            assert found.target_ids[ids].tolist() == wanted
            assert new.decode(ids) == old.decode(wanted) and new.pieces(ids) == old.pieces(wanted)
    for name, tensor in found.model.tensors.items():
        whole = model.tensors[name].read()
        rows = {"encoder.embed.weight": found.source_ids}.get(name, found.target_ids)
        embedded = name.startswith(("encoder.embed", "decoder.embed", "output"))
        np.testing.assert_array_equal(tensor.read(), whole[rows] if embedded else whole)
    before, after = model.generation, found.model.generation
    assert found.target_ids[after.decoder_start_token_id] == before.decoder_start_token_id
    assert found.target_ids[list(after.eos_token_id)].tolist() == list(before.eos_token_id)


@pytest.mark.parametrize("variant", VARIANTS)
def test_marian(tmp_path: Path, variant: str) -> None:
    model = canonical(VARIANTS[variant](tmp_path / "files"))
    found = trim(model, PAIRS, tmp_path / "trimmed")
    check(model, PAIRS, found)
    assert found.model.config.target_vocab < model.config.target_vocab
    odd = [(line, line) for line in odd_lines()[::40]]
    check(model, odd, trim(model, odd, tmp_path / "odd"))


@pytest.mark.parametrize("variant", ("shared", "separate"))
def test_nothing_that_is_not_needed_stays(tmp_path: Path, variant: str) -> None:
    model = canonical(VARIANTS[variant](tmp_path / "files"))
    found = trim(model, PAIRS, tmp_path / "trimmed")
    tokenizer = opened(model)
    source = {i for line, _ in PAIRS for i in tokenizer.encode_source(line)}
    target = {i for _, line in PAIRS for i in tokenizer.encode_target(line, end=True)}
    special = {"</s>", "<unk>", "<pad>"}
    if variant == "shared":
        source |= target
    assert len(found.source_ids) <= len(source | target) + 3
    assert special <= set(opened(found.model).pieces(range(len(found.target_ids))))


def test_separate_tables_with_one_vocabulary(tmp_path: Path) -> None:
    model = canonical(VARIANTS["shared"](tmp_path / "files"), share_embeddings=False, tie_output=False)
    found = trim(model, PAIRS, tmp_path / "trimmed")
    check(model, PAIRS, found)
    np.testing.assert_array_equal(found.source_ids, found.target_ids)


def test_a_head_over_the_vocabulary_loses_what_its_table_loses(tmp_path: Path) -> None:
    model = canonical(VARIANTS["shared"](tmp_path / "files"), heads={"words": HeadConfig("none", out="vocabulary")})
    found = trim(model, PAIRS, tmp_path / "trimmed")
    bias = model.tensors["head.words.out.bias"].read()
    assert len(found.source_ids) < len(bias)
    np.testing.assert_array_equal(found.model.tensors["head.words.out.bias"].read(), bias[found.source_ids])


def test_separate_vocabularies_number_special_tokens_alike(tmp_path: Path) -> None:
    model = canonical(VARIANTS["separate, larger target"](tmp_path / "files"))
    found = trim(model, PAIRS, tmp_path / "trimmed")
    old, new = opened(model), opened(found.model)
    for token in ("</s>", "<pad>"):
        ids = [new.encode_target(token, end=False)[0], new.encode_source(token)[0]]
        assert ids[0] == ids[1]
        assert found.target_ids[ids[0]] == old.encode_target(token, end=False)[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_kept_tokens_give_new_ids(tmp_path: Path, variant: str) -> None:
    """Text comes to the same ids by either tokenizer, also where new ids do not ascend with old ones."""
    model = canonical(VARIANTS[variant](tmp_path / "files"))
    found = trim(model, PAIRS, tmp_path / "trimmed")
    kept = KeptTokens(found.source_ids, found.target_ids)
    old, new = opened(model), opened(found.model)
    for source, target in PAIRS:
        ids = old.encode_source(source), old.encode_target(target, end=True)
        assert kept.hold(*ids)
        numbers = [each.tolist() for each in kept.renumbered(*ids)]
        assert numbers == [new.encode_source(source), new.encode_target(target, end=True)]
        gone = np.setdiff1d(range(model.config.target_vocab), found.target_ids)[0]
        assert not kept.hold(ids[0], [*ids[1], gone])
        gone = np.setdiff1d(range(model.config.source_vocab), found.source_ids)[0]
        assert not kept.hold([gone], ids[1])


def test_every_id_of_the_search_is_renumbered(tmp_path: Path) -> None:
    model = canonical(VARIANTS["shared"](tmp_path / "files"))
    used = opened(model).encode_target(PAIRS[0][1], end=False)
    kept = trim(model, PAIRS, tmp_path / "plain").target_ids
    unused, gone = (int(i) for i in np.setdiff1d(range(model.config.target_vocab), kept)[:2])
    start = model.generation.decoder_start_token_id
    defaults = replace(
        model.generation,
        eos_token_id=(0, unused),
        bad_words_ids=((used[0], used[1]), (used[0], gone), (start,)),
        suppress_tokens=(used[2], gone),
        begin_suppress_tokens=(gone, used[3]),
        forced_bos_token_id=used[4],
        forced_eos_token_id=(0,),
    )
    found = trim(replace(model, generation=defaults), PAIRS, tmp_path / "trimmed")
    assert gone not in found.target_ids
    new = {old: i for i, old in enumerate(found.target_ids.tolist())}
    assert found.model.generation == replace(
        defaults,
        decoder_start_token_id=new[start],
        pad_token_id=new[start],
        eos_token_id=(new[0], new[unused]),
        bad_words_ids=((new[used[0]], new[used[1]]), (new[start],)),
        suppress_tokens=(new[used[2]],),
        begin_suppress_tokens=(new[used[3]],),
        forced_bos_token_id=new[used[4]],
        forced_eos_token_id=(new[0],),
    )


SPECIAL = ["</s>", "<unk>", "<pad>"]


def json_tokenizer(kind: str) -> tokenizers.Tokenizer:
    lines = [*GERMAN, *ENGLISH]
    options: dict[str, Any] = {"vocab_size": 140, "special_tokens": SPECIAL, "show_progress": False}
    trainer: Any
    if kind == "Unigram":
        made = tokenizers.Tokenizer(models.Unigram())
        made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        made.decoder, trainer = decoders.Metaspace(), trainers.UnigramTrainer(unk_token="<unk>", **options)
    elif kind == "WordPiece":
        made = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**options)
    elif kind == "WordLevel":
        made = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer, trainer = pre_tokenizers.Whitespace(), trainers.WordLevelTrainer(**options)
    elif kind == "BPE with a prefix":
        made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
        trainer = trainers.BpeTrainer(continuing_subword_prefix="##", **options)
    else:
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
        options["vocab_size"] = 400
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    made.train_from_iterator(lines, trainer)
    made.add_special_tokens([AddedToken(">>fra<<", special=True)])
    made.enable_padding(pad_id=2, pad_token="<pad>")
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    return made


@pytest.mark.parametrize("kind", ("Unigram", "WordPiece", "WordLevel", "BPE", "BPE with a prefix"))
def test_tokenizer_json(tmp_path: Path, kind: str) -> None:
    files = tmp_path / "files"
    files.mkdir()
    json_tokenizer(kind).save(str(files / "tokenizer.json"))
    added = {"2": {"content": "<pad>"}, "9" * 5000: {}}  # nothing has checked these: more digits than int() takes
    (files / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    model = canonical(files)
    found = trim(model, PAIRS, tmp_path / "trimmed")
    check(model, PAIRS, found)
    assert found.model.config.target_vocab < 0.9 * model.config.target_vocab
    if kind == "BPE":  # no byte is lost
        tokenizer, odd = opened(found.model), "Grüße, 猫!"
        assert tokenizer.decode(tokenizer.encode_target(odd, end=False)).strip() == odd
    everything = [(line, line) for line in (*GERMAN, *ENGLISH, *odd_lines()[::40])]
    check(model, everything, trim(model, everything, tmp_path / "all"))


@pytest.mark.parametrize("processor", ("Bert", "Roberta", "Sequence", "bytes"))
def test_post_processors(tmp_path: Path, processor: str) -> None:
    made = json_tokenizer("WordLevel")
    code = (">>fra<<", made.token_to_id(">>fra<<"))
    made.post_processor = {
        "Bert": processors.BertProcessing(("</s>", 0), code),
        "Roberta": processors.RobertaProcessing(("</s>", 0), code),
        "Sequence": processors.Sequence([processors.ByteLevel(), processors.BertProcessing(("</s>", 0), code)]),
        "bytes": processors.ByteLevel(),
    }[processor]
    (tmp_path / "files").mkdir()
    made.save(str(tmp_path / "files" / "tokenizer.json"))
    model = canonical(tmp_path / "files")
    check(model, PAIRS, trim(model, PAIRS, tmp_path / "trimmed"))


def test_a_padded_table_loses_its_padding(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    json_tokenizer("Unigram").save(str(tmp_path / "files" / "tokenizer.json"))
    size = canonical(tmp_path / "files").config.target_vocab
    model = canonical(tmp_path / "files", source_vocab=size + 20, target_vocab=size + 20)
    found = trim(model, PAIRS, tmp_path / "trimmed")
    check(model, PAIRS, found)
    assert max(found.target_ids) < size
    named = replace(model, generation=replace(model.generation, pad_token_id=size + 7))
    found = trim(named, PAIRS, tmp_path / "named")
    check(named, PAIRS, found)
    assert found.target_ids[found.model.generation.pad_token_id] == size + 7


def test_what_cannot_be_trimmed(tmp_path: Path) -> None:
    model = canonical(VARIANTS["shared"](tmp_path / "files"))
    with pytest.raises(OptionError, match="files: expected an empty directory"):
        trim_vocabulary(model, PAIRS, tmp_path / "files")
    with pytest.raises(InputError, match="text: expected pairs of lines, found none"):
        trim(model, [], tmp_path / "a")
    with pytest.raises(UnsupportedError, match="expected a model with tokenizer files, found none"):
        trim(replace(model, tokenizer_kind=None, tokenizer_files={}), PAIRS, tmp_path / "b")
    for ids in ([0, -1], [model.config.source_vocab]):
        with pytest.raises(InputError, match=f"text: expected source ids from 0 to .*, found {ids[-1]}"):
            trim(model, [(ids, "")], tmp_path / f"ids{ids[-1]}")
    content = json.loads(json_tokenizer("Unigram").to_str())
    size = len(content["model"]["vocab"])
    untyped = {key: value for key, value in content["model"].items() if key != "type"}
    for name, change, error, message in (
        ("untyped", {"model": untyped}, UnsupportedError, "only Unigram, WordPiece, WordLevel and BPE can be"),
        (
            "far",
            {"padding": {**content["padding"], "pad_id": 999}},
            TokenizerError,
            f"expected special ids below the model's {size + 1}, found 999",
        ),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(error, match=message):
            trim(canonical(tmp_path / name), PAIRS, tmp_path / f"{name} trimmed")


def convert(model: CanonicalModel, path: Path, weights: str) -> pyengine.Translator:
    write_directory(
        path,
        config=model.config,
        weights=weights,
        generation=model.generation,
        tensors=pack_tensors(model, weights, {}, "absmax", [], None, {}),
        tokenizer=model.tokenizer_kind,
        tokenizer_files=model.tokenizer_files,
        created_by="test",
    )
    return pyengine.load(path, threads=1)


@pytest.mark.parametrize("weights", ("int8", "float32"))
def test_the_example_translates_as_before(tmp_path: Path, weights: str) -> None:
    """Logits of kept tokens are the same bytes, so that a greedy search writes the same.

    Beams may part where the probability of what was removed goes to others: over the whole test set, with its tokens
    and the model's own, 59 of 1,000 translations do (int8 weights, 4 beams), at the same BLEU.
    """
    model = open_checkpoint(EXAMPLE)
    sources, targets = (
        (EXAMPLE / f"test_2016_flickr.{side}").read_text(encoding="utf-8").splitlines() for side in ("de", "en")
    )
    some = sources[:24]
    whole = convert(model, tmp_path / "whole", weights)
    greedy = whole.translate(some, beam_size=1)
    own = [(source, result.ids) for source, result in zip(some, greedy)]
    for name, text, low, high in (("own", own, 300, 500), ("all", [*own, *zip(sources, targets)], 3000, 3500)):
        found = trim(model, text, tmp_path / name)
        assert low < found.model.config.target_vocab < high
        trimmed = convert(found.model, tmp_path / f"{name} model", weights)
        assert [result.text for result in trimmed.translate(some, beam_size=1)] == [r.text for r in greedy]
        for source, ids in own[:5]:
            new = np.searchsorted(found.target_ids, ids)
            wanted = whole.logits(source, ids)[:, found.target_ids]
            np.testing.assert_array_equal(trimmed.logits(source, new), wanted)
            # What is removed had a share of the probability.
            before, after = whole.score(source, ids).log_probs, trimmed.score(source, new).log_probs
            assert (np.array(after) >= np.array(before) - 1e-5).all()
    check(model, list(zip(sources, targets)), found)
