"""Tokenizers in one tokenizer.json: the ids are the tokenizers package's own."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from random import Random

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pyengine.errors import InputError, TokenizerError
from pyengine.text import open_tokenizer

from .models import ENGLISH, GERMAN
from .odd_lines import odd_lines

SINGLE = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
END = {"type": "TemplateProcessing", "single": SINGLE, "pair": []}
WORD_PIECE = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}


def marian_like() -> tokenizers.Tokenizer:
    """A unigram model with Marian's special tokens and an end token after each text."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    specials = ["</s>", "<unk>", ">>fra<<"]
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(GERMAN + ENGLISH, trainer)
    made.add_special_tokens([AddedToken("<pad>", special=True)])
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", made.token_to_id("</s>"))]
    )
    return made


def save(made: tokenizers.Tokenizer, directory: Path, **config: object) -> Path:
    made.save(str(directory / "tokenizer.json"))
    if config:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def test_ids_and_text_are_those_of_the_package(tmp_path: Path) -> None:
    made = marian_like()
    tokenizer = open_tokenizer(save(made, tmp_path), "tokenizers")
    for line in [*GERMAN, *ENGLISH, *odd_lines()]:
        ids = made.encode(line).ids
        assert ids[-1] == made.token_to_id("</s>")
        assert tokenizer.encode_source(line) == tokenizer.encode_target(line, end=True) == ids
        assert tokenizer.encode_target(line, end=False) == ids[:-1]
        assert tokenizer.decode(ids) == made.decode(ids, skip_special_tokens=True)
        assert tokenizer.pieces(ids) == [made.id_to_token(index) for index in ids]


def test_special_tokens(tmp_path: Path) -> None:
    made = marian_like()
    tokenizer = open_tokenizer(save(made, tmp_path), "tokenizers")
    code, end, pad = (made.token_to_id(token) for token in (">>fra<<", "</s>", "<pad>"))
    assert tokenizer.encode_source(">>fra<< Zwei Hunde")[0] == code
    assert tokenizer.encode_source("") == [end]
    ids = tokenizer.encode_source(GERMAN[1])
    assert tokenizer.decode([pad, *ids]) == GERMAN[1]
    assert tokenizer.pieces([pad, end]) == ["<pad>", "</s>"]


def test_a_text_is_neither_cut_nor_padded(tmp_path: Path) -> None:
    made = marian_like()
    whole = made.encode(GERMAN[0]).ids
    made.enable_truncation(4)
    made.enable_padding(length=200)
    assert open_tokenizer(save(made, tmp_path), "tokenizers").encode_source(GERMAN[0]) == whole


def test_a_padded_embedding_table_is_allowed(tmp_path: Path) -> None:
    made = marian_like()
    size = made.get_vocab_size()
    save(made, tmp_path)
    tokenizer = open_tokenizer(tmp_path, "tokenizers", source_vocab=size + 5, target_vocab=size + 5)
    assert (tokenizer.source_size, tokenizer.target_size) == (size + 5, size + 5)
    assert tokenizer.pieces([size + 4]) == [""]
    assert tokenizer.decode([size + 4]) == ""
    with pytest.raises(InputError, match=f"expected token ids from 0 to {size + 4}, found {size + 5}"):
        tokenizer.decode([size + 5])
    with pytest.raises(TokenizerError, match=f"below the model's {size - 1}, found the id {size - 1}"):
        open_tokenizer(tmp_path, "tokenizers", source_vocab=size, target_vocab=size - 1)


def test_clean_up_is_for_all_but_bpe(tmp_path: Path) -> None:
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0, ".": 1, "[UNK]": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pairs = tokenizers.Tokenizer(models.BPE({"a": 0, " ": 1, ".": 2}, []))
    cases = (("words", words, [0, 1], "a .", "a."), ("pairs", pairs, [0, 2], "a .", "a ."))
    for name, made, ids, kept, cleaned in cases:
        for number, (config, expected) in enumerate(((False, kept), (True, cleaned), (None, kept))):
            directory = tmp_path / f"{name}{number}"
            directory.mkdir()
            save(made, directory, clean_up_tokenization_spaces=config)
            assert open_tokenizer(directory, "tokenizers").decode(ids) == expected


@pytest.mark.parametrize("text", ("\ud800", "Mann \udfff", 3, None))
def test_what_is_no_text_is_refused(tmp_path: Path, text: str) -> None:
    tokenizer = open_tokenizer(save(marian_like(), tmp_path), "tokenizers")
    with pytest.raises(InputError):
        tokenizer.encode_source(text)
    with pytest.raises(InputError):
        tokenizer.encode_target(text, end=False)


@pytest.mark.parametrize(
    "content", (b"", b"{}", b"[]", b"\xff\xfe", b'{"model": {"type": "Unigram"}}', b"[" * 100_000)
)
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match="tokenizer.json: expected a tokenizer"):
        open_tokenizer(tmp_path, "tokenizers")


def test_an_empty_vocabulary_is_refused(tmp_path: Path) -> None:
    save(tokenizers.Tokenizer(models.BPE()), tmp_path)
    with pytest.raises(TokenizerError, match="tokenizer.json: expected a vocabulary, found none"):
        open_tokenizer(tmp_path, "tokenizers")


def charsmap(content: bytes) -> dict[str, str]:
    return {"type": "Precompiled", "precompiled_charsmap": b64encode(content).decode()}


@pytest.mark.parametrize(
    "change",
    (
        {"normalizer": charsmap(b"")},
        {"normalizer": charsmap(b"\4\0\0\0" + b"\xff" * 4)},
        {"normalizer": charsmap(b"\x08\0\0\0\0\4\0\0\0\0\0\0")},
        {"post_processor": {**END, "special_tokens": {}}},
        {"post_processor": {**END, "special_tokens": {"</s>": {"id": "</s>", "ids": [999], "tokens": ["</s>"]}}}},
        {"model": {"type": "WordPiece", "unk_token": "?", "vocab": {"a": 0}, **WORD_PIECE}},
    ),
)
def test_a_file_that_fails_with_a_text_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    """These open; the package panics or gives an id without a row only once it sees a text."""
    content = {**json.loads(marian_like().to_str()), **change}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="tokenizer.json: "):
        open_tokenizer(tmp_path, "tokenizers").encode_source("Mann \ufb01")


def test_damaged_files_are_refused_or_work(tmp_path: Path) -> None:
    path = save(marian_like(), tmp_path) / "tokenizer.json"
    whole, random = path.read_bytes(), Random(6)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[random.randrange(len(damaged))] = random.randrange(256)
        path.write_bytes(damaged)
        try:
            open_tokenizer(tmp_path, "tokenizers").encode_source(GERMAN[0])
        except TokenizerError as error:
            assert "tokenizer.json" in str(error)


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_failure_of_the_package_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: type[BaseException]
) -> None:
    tokenizer = open_tokenizer(save(marian_like(), tmp_path), "tokenizers")

    def ends(*arguments: object, **options: object) -> None:
        raise ending

    monkeypatch.setattr("pyengine.text.tokenizer_json.native", ends)
    with pytest.raises(ending):
        tokenizer.encode_source("Mann")
