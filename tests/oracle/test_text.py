"""Tokenizers of language models and chat templates: ids, text and conversations as transformers has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pyengine.errors import PyengineError
from pyengine.text import ChatTemplate

from ..real_models import VARIABLE
from ..text.odd_lines import odd_lines
from ..text.test_text_tokenizer import opened, streamed
from ..text.trained import KINDS, trained

transformers = pytest.importorskip("transformers")

FOLDER = os.environ.get(VARIABLE)
TEMPLATES = sorted(Path(FOLDER, "templates").glob("*.jinja")) if FOLDER else []
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

VARIABLES = {"functions": "[]", "datetime": "today"}  # which one of them asks for


@pytest.mark.parametrize(
    "config",
    (
        {},
        {"clean_up_tokenization_spaces": True},
        {"add_bos_token": False, "add_eos_token": True, "eos_token": "</s>"},  # tokenizer.json says
    ),
)
@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_text(tmp_path: Path, kind: str, config: dict[str, Any]) -> None:
    tokenizer = opened(trained(kind), tmp_path, **config, tokenizer_class="PreTrainedTokenizerFast")
    original = transformers.AutoTokenizer.from_pretrained(tmp_path)
    split = transformers.AutoTokenizer.from_pretrained(tmp_path, split_special_tokens=True)
    for line in odd_lines():
        assert tokenizer.encode(line) == split(line)["input_ids"], line
        assert tokenizer.encode(line, special=False) == split(line, add_special_tokens=False)["input_ids"], line
        ids = original(line, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(line, special=False, split_special=False) == ids, line
        assert "".join(streamed(tokenizer, ids)) == original.decode(ids, skip_special_tokens=True), line


PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "a < b & 'c' é"}},
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "The weather", "parameters": PARAMETERS}}
    for name in ("get_weather", "get_time")
]


def call(arguments: object) -> dict[str, Any]:
    made = {"id": "abc123def", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [made]}


ANSWER = {"role": "tool", "tool_call_id": "abc123def", "name": "get_weather", "content": '{"degrees": 20}'}
USER = {"role": "user", "content": " Hello, <world> & 'é' \U0001f642\n"}
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[Any] | None]] = {
    "user": ([USER], None),
    "system": (
        [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "Hi!"}, USER],
        None,
    ),
    "tools": ([USER, call({"city": "Rome"}), ANSWER, {"role": "assistant", "content": "20 degrees"}, USER], TOOLS),
    "tools, as text": ([USER, call('{"city": "Rome"}'), ANSWER], TOOLS),
    "reasoning": ([USER, {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}, USER], None),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": text} for text in ("Hello", "you")]}], None),
    "roles that do not alternate": ([{"role": "assistant", "content": text} for text in "ab"], None),
    "long": ([{"role": ("user", "assistant")[i % 2], "content": f"text {i} " * 50} for i in range(101)], TOOLS),
}


@pytest.mark.skipif(not TEMPLATES, reason=f"no templates: {VARIABLE} names no folder that has them")
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_templates(path: Path) -> None:
    """Where transformers gives a text it is ours; where it fails, ours is an error or, for a generator, a text."""
    from transformers.utils.chat_template_utils import _normalize_chat_messages, render_jinja_template

    source = path.read_text(encoding="utf-8")
    ours = ChatTemplate(source, TOKENS, path)
    texts = 0
    for name, (messages, tools) in CONVERSATIONS.items():
        for prompt in (True, False):
            try:
                expected = render_jinja_template(
                    [_normalize_chat_messages(messages)],
                    tools=tools,
                    chat_template=source,
                    add_generation_prompt=prompt,
                    **TOKENS,
                    **VARIABLES,
                )[0][0]
            except Exception as error:
                if "generator" not in str(error):
                    with pytest.raises(PyengineError):
                        ours.render(messages, tools, prompt, **VARIABLES)
                continue
            assert ours.render(messages, tools, prompt, **VARIABLES) == expected, name
            texts += 1
    assert texts


def test_a_chat_as_ids(tmp_path: Path) -> None:
    tokenizer = opened(trained("byte level"), tmp_path, **TOKENS, tokenizer_class="PreTrainedTokenizerFast")
    source = "{{ bos_token }}{% for m in messages %}<|end|> {{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    original = transformers.AutoTokenizer.from_pretrained(tmp_path)
    original.chat_template = source
    template = ChatTemplate(source, TOKENS)
    for line in odd_lines()[::20]:
        messages = [{"role": "user", "content": line}]
        expected = original.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert template.encode(tokenizer, messages, add_generation_prompt=False, split_special=False) == expected
        if not any(token in line for token in tokenizer.special_tokens):
            assert template.encode(tokenizer, messages, add_generation_prompt=False) == expected
