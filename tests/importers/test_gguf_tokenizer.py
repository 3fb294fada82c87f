"""Tokenizers of GGUF metadata give the ids of the tokenizers that the metadata were made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import pre_tokenizers

from pyengine.errors import PyengineError, TokenizerError, UnsupportedError
from pyengine.importers import open_checkpoint
from pyengine.importers.gguf_tokenizer import tokenizer_files_of
from pyengine.importers.gguf_tokenizer.splits import SPLITS
from pyengine.text.tokenizer_json import JsonTokenizer

from ..text.odd_lines import odd_lines
from .gguf_files import write_gguf
from .gguf_vocabularies import TEXT, byte_level, original, pieces, processor, word_pieces, words
from .test_gguf import CONFIGS, raw_tensors

LINES = (*TEXT, *odd_lines()[::4])


def opened(metadata: dict[str, Any], directory: Path) -> JsonTokenizer:
    for name, content in tokenizer_files_of(metadata).items():
        (directory / name).write_bytes(content)
    return JsonTokenizer(directory)


@pytest.mark.parametrize("pre", ("gpt-2", "smollm"))
def test_byte_level_pairs_are_the_originals(tmp_path: Path, pre: str) -> None:
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    made = original(words if pre == "gpt-2" else pre_tokenizers.Sequence([digits, words]))
    tokenizer = opened(byte_level(made, pre), tmp_path)
    for line in LINES:
        ids = made.encode(line).ids
        assert tokenizer.encode(line, split_special=False) == ids, line
        assert tokenizer.decode(ids).encode() == line.replace("<|end|>", "").encode()


@pytest.mark.parametrize("prefix", (False, True))
def test_scored_pieces_are_sentencepieces(tmp_path: Path, prefix: bool) -> None:
    model = processor(prefix)
    tokenizer = opened(pieces(prefix), tmp_path)
    for line in LINES:
        if "\0" in line or (prefix and ("<tool>" in line or "\n" in line)):
            continue  # SentencePiece ends a text at a zero; llama.cpp puts the prefix behind tokens of users, too
        ids = model.encode(line)
        assert tokenizer.encode(line, special=False) == ids, line
        assert tokenizer.encode(line) == [model.bos_id(), *ids]
        assert tokenizer.decode(ids) == model.decode(ids)


def test_listed_pieces_are_the_scored_ones_in_their_order(tmp_path: Path) -> None:
    scored = pieces(False)
    tokens, scores = scored["tokenizer.ggml.tokens"], scored["tokenizer.ggml.scores"]
    kinds = scored["tokenizer.ggml.token_type"]
    known = {token for token, kind in zip(tokens, kinds) if kind == 1}
    order = sorted(known, key=lambda token: -scores[tokens.index(token)])
    merges = [
        f"{token[:cut]} {token[cut:]}" for token in order for cut in range(len(token) - 1, 0, -1)
        if {token[:cut], token[cut:]} <= known
    ]  # fmt: skip
    (tmp_path / "listed").mkdir()
    listed = opened(
        {**scored, "tokenizer.ggml.model": "gemma4", "tokenizer.ggml.merges": merges}, tmp_path / "listed"
    )
    tokenizer = opened(scored, tmp_path)
    for line in LINES:
        assert listed.encode(line) == tokenizer.encode(line, special=False), line


def test_word_pieces_are_the_originals(tmp_path: Path) -> None:
    made = words()
    first, last = made.token_to_id("[CLS]"), made.token_to_id("[SEP]")
    tokenizer = opened(word_pieces(made), tmp_path)
    for line in LINES:
        assert tokenizer.encode(line) == [first, *made.encode(line).ids, last], line
    assert tokenizer.decode(tokenizer.encode("Zwei Hunde fährt cities")) == "zwei hunde fahrt cities"


@pytest.mark.parametrize("prefix", (False, True))
def test_spaces_that_are_a_token_of_users(tmp_path: Path, prefix: bool) -> None:
    metadata = pieces(prefix)
    spaces = len(metadata["tokenizer.ggml.tokens"])
    for key, value in (("tokens", "     "), ("scores", 0.0), ("token_type", 4)):
        metadata[f"tokenizer.ggml.{key}"].append(value)
    tokenizer = opened(metadata, tmp_path)
    ids = tokenizer.encode("a      b", special=False)
    assert spaces in ids and tokenizer.decode(ids) == ("a       b" if prefix else "a      b")
    # Without a prefix they are looked for as SentencePiece has them.
    assert (spaces in tokenizer.encode("a\u2581\u2581\u2581\u2581\u2581b")) is not prefix


def test_added_tokens_that_take_the_white_space_behind_them(tmp_path: Path) -> None:
    metadata = pieces(True)
    end = metadata["tokenizer.ggml.eos_token_id"]
    for architecture, stripped in (("llama", False), ("phi3", True)):
        tokenizer = opened({**metadata, "general.architecture": architecture}, tmp_path)
        word = tokenizer.encode("a", special=False)
        assert (tokenizer.encode("</s>   a", special=False, split_special=False) == [end, *word]) is stripped
        assert tokenizer.encode("<s>   a", special=False, split_special=False)[1:] != word


def test_special_tokens_are_text_unless_the_caller_says_otherwise(tmp_path: Path) -> None:
    metadata = pieces(False)
    tokenizer = opened(metadata, tmp_path)
    begin, end = metadata["tokenizer.ggml.bos_token_id"], metadata["tokenizer.ggml.eos_token_id"]
    assert tokenizer.encode("a</s>", split_special=False)[-1] == end
    ids = tokenizer.encode("a</s><tool>")
    assert end not in ids and tokenizer.decode(ids) == "a</s><tool>" and ids[0] == begin
    assert tokenizer.pieces(ids)[-1] == "<tool>"


def test_what_is_added_is_what_the_file_says(tmp_path: Path) -> None:
    metadata = pieces(False)
    begin, end = metadata["tokenizer.ggml.bos_token_id"], metadata["tokenizer.ggml.eos_token_id"]
    text = opened(metadata, tmp_path).encode("a", special=False)
    for flags, ids in (
        ({}, [begin, *text]),
        ({"add_bos_token": False}, text),
        ({"add_eos_token": True}, [begin, *text, end]),
        ({"add_bos_token": False, "add_eos_token": True}, [*text, end]),
    ):
        given = {f"tokenizer.ggml.{name}": value for name, value in flags.items()}
        assert opened({**metadata, **given}, tmp_path).encode("a") == ids


def test_the_begin_token_that_a_splitting_implies(tmp_path: Path) -> None:
    made = original(pre_tokenizers.ByteLevel(add_prefix_space=False))
    end = made.token_to_id("<|end|>")
    metadata = byte_level(made, "llama-bpe", **{"tokenizer.ggml.bos_token_id": end})
    assert opened(metadata, tmp_path).encode("a")[0] == end
    assert opened({**metadata, "tokenizer.ggml.add_bos_token": False}, tmp_path).encode("a")[0] != end
    assert opened({**metadata, "tokenizer.ggml.pre": "qwen2"}, tmp_path).encode("a")[0] != end


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    (
        ("gpt-2", "it's 1234", "it|'s| 1234"),
        ("smollm", "it's 1234", "it|'s| |1|2|3|4"),
        ("llama-bpe", "IT'S  1234\n\n x", "IT|'S| | |123|4|\n\n| x"),
        ("qwen2", "(IT'S 12)\n", "(IT|'S| |1|2|)\n"),
        ("qwen35", "ne\u0301e", "ne\u0301e"),
        ("qwen2", "ne\u0301e", "ne|\u0301e"),
        ("tekken", "camelCase it's 12/\n", "camel|Case| it|'s| |1|2|/\n"),
        ("gpt-4o", "camelCase it's 1234", "camel|Case| it's| |123|4"),
        ("deepseek-llm", "a 12 b\n", "a| |12| b|\n"),
        ("deepseek-coder", "a 12 b\n", "a| |1|2| b|\n"),
        ("falcon", "a==1234", "a|==|123|4"),
    ),
)
def test_splitting(pre: str, text: str, expected: str) -> None:
    made = original(pre_tokenizers.ByteLevel(add_prefix_space=False))
    content = tokenizer_files_of(byte_level(made, pre))["tokenizer.json"]
    found = made.from_buffer(content).pre_tokenizer.pre_tokenize_str(text)
    assert "|".join(text[begin:end] for _, (begin, end) in found) == expected


def test_every_splitting_is_one_that_the_package_reads() -> None:
    made = original(pre_tokenizers.ByteLevel(add_prefix_space=False))
    for pre in SPLITS:
        read = made.from_buffer(tokenizer_files_of(byte_level(made, pre))["tokenizer.json"])
        assert read.decode(read.encode(TEXT[1]).ids) == TEXT[1]


def test_the_other_files() -> None:
    template = "{{ messages }}"
    metadata = pieces(True, **{"tokenizer.chat_template": template, "tokenizer.ggml.add_sep_token": False})
    files = tokenizer_files_of(metadata)
    assert files["chat_template.jinja"] == template.encode()
    assert files["tokenizer_config.json"] == (
        b'{"bos_token":"<s>","eos_token":"</s>","unk_token":"<unk>","clean_up_tokenization_spaces":false}'
    )


def test_a_checkpoint_has_the_tokenizer_of_its_file(tmp_path: Path) -> None:
    config = CONFIGS["llama"]
    tokens = ["<unk>", "a", "b", "<s>", "</s>", "<pad>", "ab"]
    tokens += [f"<unused{i}>" for i in range(config["vocab_size"] - len(tokens))]

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
        writer.add_token_types([2, 1, 1, 3, 3, 3, 1, *[3] * (len(tokens) - 7)])
        writer.add_unk_token_id(0)
        writer.add_add_space_prefix(False)
        writer.add_chat_template("{{ bos_token }}")

    write_gguf(tmp_path / "tiny.gguf", "llama", config, raw_tensors("llama", config), change=add)
    model = open_checkpoint(tmp_path / "tiny.gguf")
    assert model.tokenizer_kind == "tokenizers" and model.notes == ()
    assert set(model.tokenizer_files) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    for name, content in model.tokenizer_files.items():
        assert isinstance(content, bytes)
        (tmp_path / name).write_bytes(content)
    assert JsonTokenizer(tmp_path, size=config["vocab_size"]).encode("abba") == [3, 6, 2, 1]


@pytest.mark.parametrize("model", ({}, {"tokenizer.ggml.model": "none"}, {"tokenizer.ggml.model": "no_vocab"}))
def test_a_file_without_a_tokenizer(model: dict[str, Any]) -> None:
    assert tokenizer_files_of(model) == {}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    (
        ("model", 3, "model: expected a text, found 3"),
        ("tokens", None, "tokens: expected an array of texts, found None"),
        ("tokens", "abc", "tokens: expected an array of texts, found 'abc'"),
        ("tokens", ["a", 3], "tokens: expected an array of texts, found 3"),
        ("tokens", [], "tokens: expected at least one token"),
        ("tokens", ["a", ""], "tokens: expected tokens of at least one character, found 'none for the id 1'"),
        ("tokens", ["a", "b", "a"], "tokens: expected every token once, found 'a for the ids 0 and 2'"),
        ("token_type", [1], r"token_type: expected \d+ values, one for each token, found '1 values'"),
        ("token_type", 1, "token_type: expected an array, found 1"),
        ("token_type", [7], "token_type: expected types from 0 to 6, found 7"),
        ("token_type", [True], "token_type: expected types from 0 to 6, found True"),
        ("scores", None, "scores: expected an array, found None"),
        ("scores", [1.0], r"scores: expected \d+ values, one for each token, found '1 values'"),
        ("scores", [float("nan")], "scores: expected finite numbers, found nan"),
        ("scores", ["high"], "scores: expected finite numbers, found 'high'"),
        ("bos_token_id", 420, "bos_token_id: expected an id below 420, found 420"),
        ("eos_token_id", -1, "eos_token_id: expected an id below 420, found -1"),
        ("padding_token_id", 1.0, "padding_token_id: expected an id below 420, found 1.0"),
        ("unknown_token_id", True, "unknown_token_id: expected an id below 420, found True"),
        ("add_bos_token", 1, "add_bos_token: expected true or false, found 1"),
        ("add_space_prefix", "no", "add_space_prefix: expected true or false, found 'no'"),
    ),
)
def test_hostile_values_are_named(key: str, value: Any, message: str) -> None:
    metadata = pieces(True)
    if key in ("token_type", "scores") and isinstance(value, list) and "values" not in message:
        value = value * len(metadata["tokenizer.ggml.tokens"])
    with pytest.raises(TokenizerError, match=f"^here: tokenizer.ggml.{message}"):
        tokenizer_files_of({**metadata, f"tokenizer.ggml.{key}": value}, "here")


@pytest.mark.parametrize(
    "merge", ("x", "", " ", "ab", "a  b", "\u0120 \u0120\u0120\u0120\u0120\u0120\u0120\u0120\u0120", "a b c", "zzz a")
)
def test_a_merge_of_what_is_no_token_is_named(merge: str) -> None:
    made = original(pre_tokenizers.ByteLevel(add_prefix_space=False))
    metadata = byte_level(made, "gpt-2")
    merges = [*metadata["tokenizer.ggml.merges"], merge]
    with pytest.raises(TokenizerError, match="tokenizer.ggml.merges: expected two tokens that make a third, found"):
        tokenizer_files_of({**metadata, "tokenizer.ggml.merges": merges})


@pytest.mark.parametrize("word", ("#versions", "stones"))
def test_merges_are_written_so_that_they_are_read_soon(tmp_path: Path, word: str) -> None:
    """In strings, which take half the time of pairs; but a line that begins with #version would be passed over."""
    made = original(pre_tokenizers.ByteLevel(add_prefix_space=False))
    metadata = byte_level(made, "gpt-2")
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    for end in range(2, len(word) + 1):
        if word[:end] not in tokens:
            tokens.append(word[:end])
            metadata["tokenizer.ggml.token_type"].append(1)
        merges.insert(end - 2, f"{word[: end - 1]} {word[end - 1]}")
    tokenizer = opened(metadata, tmp_path)
    written = json.loads((tmp_path / "tokenizer.json").read_bytes())["model"]["merges"]
    assert {type(each) for each in written} == {list if word == "#versions" else str}
    assert [each if isinstance(each, str) else " ".join(each) for each in written] == merges
    if word == "stones":  # the splitting takes the other one apart before
        assert tokenizer.pieces(tokenizer.encode(word)) == [word]


def test_what_the_engine_lacks_is_refused_by_name() -> None:
    made = original(pre_tokenizers.ByteLevel(add_prefix_space=False))
    metadata = byte_level(made, "kimi-k2")
    with pytest.raises(UnsupportedError, match="tokenizer.ggml.pre: 'kimi-k2'; supported: gpt-2, "):
        tokenizer_files_of(metadata)
    del metadata["tokenizer.ggml.pre"]
    with pytest.raises(UnsupportedError, match="tokenizer.ggml.pre: None; supported: "):
        tokenizer_files_of(metadata)
    with pytest.raises(UnsupportedError, match="tokenizer.ggml.model: 'rwkv'; supported: gpt2, "):
        tokenizer_files_of({**metadata, "tokenizer.ggml.model": "rwkv"})
    with pytest.raises(UnsupportedError, match="tokenizer.ggml.add_sep_token: "):
        tokenizer_files_of(pieces(True, **{"tokenizer.ggml.add_sep_token": True}))


def test_a_token_to_add_must_be_named() -> None:
    metadata = pieces(True)
    del metadata["tokenizer.ggml.bos_token_id"]
    assert b"TemplateProcessing" not in tokenizer_files_of(metadata)["tokenizer.json"]
    with pytest.raises(TokenizerError, match="bos_token_id: expected an id, because tokenizer.ggml.add_bos_token"):
        tokenizer_files_of({**metadata, "tokenizer.ggml.add_bos_token": True})


def test_word_pieces_that_become_the_same_are_refused() -> None:
    metadata = word_pieces(words())
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    metadata["tokenizer.ggml.tokens"] = [*tokens, "\u2581##same", "same"]
    metadata["tokenizer.ggml.token_type"] = [*types, 1, 1]
    with pytest.raises(TokenizerError, match="tokens: expected every token once, found '##same for the ids"):
        tokenizer_files_of(metadata)


def test_tokens_that_would_take_forever_to_take_apart_are_refused() -> None:
    metadata = pieces(True)
    metadata["tokenizer.ggml.tokens"][-1] = "a" * 10_000
    with pytest.raises(TokenizerError, match="tokens: expected tokens that can be taken apart, found"):
        tokenizer_files_of(metadata)


def test_a_vocabulary_must_have_a_token_for_everything() -> None:
    metadata = pieces(True)
    types = [1 if kind in (2, 6) else kind for kind in metadata["tokenizer.ggml.token_type"]]
    del metadata["tokenizer.ggml.unknown_token_id"]
    with pytest.raises(TokenizerError, match="tokens: expected one for each of 256 bytes, or one for what is unknown"):
        tokenizer_files_of({**metadata, "tokenizer.ggml.token_type": types})


def test_damaged_metadata_are_refused_or_work() -> None:
    whole = pieces(True)
    values = (None, -1, 2**70, 0.5, "", "\0", True, [], [None], {}, [[]], ["a"] * 420, [1] * 420, [2**70] * 420)
    for key in whole:
        for value in values:
            try:
                tokenizer_files_of({**whole, key: value})
            except PyengineError as error:
                assert "tokenizer.ggml." in str(error)
