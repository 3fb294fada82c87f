"""Generation: the task around a model that is a decoder alone.

>>> import pyengine
>>> generator = pyengine.load("language-int8", threads=2)
>>> generator.generate("The capital of France is", max_new_tokens=16).text
>>> for piece in generator.stream("Once upon a time"):
...     print(piece.text, end="", flush=True)
>>> generator.chat([{"role": "user", "content": "Who are you?"}], stop=["\\n\\n"]).text
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from pyengine.arguments import flag, whole
from pyengine.canonical import ModelConfig
from pyengine.decoding.search import Process
from pyengine.errors import InputError, OptionError, UnsupportedError
from pyengine.formats.strict_json import shorten
from pyengine.options import GenerationKeywords, GenerationOptions, SearchOptions
from pyengine.options.listing import lists_options
from pyengine.plan import Opened
from pyengine.results import Decoded, Echo, GenerationResult, Piece
from pyengine.scheduling.deadline import Deadline
from pyengine.tasks.author import How
from pyengine.tasks.continuations import Asked
from pyengine.tasks.conversations import Message, Turns, is_conversation
from pyengine.tasks.engine import Engine
from pyengine.tasks.forcing import target_best
from pyengine.tasks.inputs import Sentence, Sentences, is_one, seconds
from pyengine.tasks.judge import Judge
from pyengine.tasks.opinions import best_pairs
from pyengine.tasks.outcomes import all_answered, answered
from pyengine.tasks.prompts import Prompt
from pyengine.tasks.task import BATCH_TOKENS
from pyengine.text import ChatTemplate, TextTokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Generator"]

_OWN = {"tokenizer", "messages", "tools", "add_generation_prompt", "split_special"}
"""What a chat template is told in another way."""


class Generator(Judge):
    """A loaded model; `loading.load` makes one. May be used from several threads at once, and as a context manager.

    A prompt is a text, or a list or array of token ids in its place: a text begins as the tokenizer begins one, ids are
    read as they are. One prompt in gives one result, a list of prompts gives a list of results in the same order. A
    result never depends on the prompts around it.

    Search options are keywords, named as in transformers (the help of `generate` lists them), or one
    `options=GenerationOptions(...)`; for a list of prompts also a list with one for each. The checkpoint's hold where
    none is given; where it has no length either, 256 new tokens. Other keywords of several methods:

    stop                  strings that end a text, before they are in it; they may lie across tokens
    split_special_tokens  names of special tokens in a text are text; False: they are these tokens
    processor             a function of yours, given int32 ids from the prompt on and float64 logits [vocab], which
                          returns those that take their place; after all other processors, and slow
    max_batch_tokens      rows of a step
    truncate              of a prompt that is longer than the model's positions keep the end, instead of an InputError
    timeout               seconds after which the call ends in a DeadlineError, checked between steps; time that the
                          caller of stream takes between two pieces does not count
    """

    purpose = "generate text with, a decoder alone (pyengine generate, Generator.generate)"

    @classmethod
    def fits(cls, config: ModelConfig) -> bool:
        return config.encoder is None and config.decoder is not None

    def __init__(
        self,
        engine: Engine,
        tokenizer: TextTokenizer | None,
        about: dict[str, object],
        open_template: Callable[[], ChatTemplate | None] = lambda: None,
    ) -> None:
        """`open_template` opens the chat template, if there is one, when it is needed first."""
        super().__init__(engine, tokenizer, about)
        self._open_template = open_template
        self._template: ChatTemplate | None = None

    @overload
    def generate(
        self,
        prompt: Sentence,
        *,
        stop: str | Sequence[str] = ...,
        split_special_tokens: bool = ...,
        processor: Process | None = ...,
        max_batch_tokens: int = ...,
        truncate: bool = ...,
        timeout: float | None = ...,
        options: GenerationOptions | None = ...,
        **keywords: Unpack[GenerationKeywords],
    ) -> GenerationResult: ...
    @overload
    def generate(
        self,
        prompt: Sentences,
        *,
        stop: str | Sequence[str] = ...,
        split_special_tokens: bool = ...,
        processor: Process | None = ...,
        max_batch_tokens: int = ...,
        truncate: bool = ...,
        timeout: float | None = ...,
        options: GenerationOptions | Sequence[GenerationOptions] | None = ...,
        **keywords: Unpack[GenerationKeywords],
    ) -> list[GenerationResult]: ...

    @lists_options(prompted=True)
    def generate(
        self,
        prompt: Any,
        *,
        stop: str | Sequence[str] = (),
        split_special_tokens: bool = True,
        processor: Process | None = None,
        max_batch_tokens: int = BATCH_TOKENS,
        truncate: bool = False,
        timeout: float | None = None,
        options: GenerationOptions | Sequence[GenerationOptions] | None = None,
        **keywords: Unpack[GenerationKeywords],
    ) -> Any:
        """How a prompt, or each of a list of them, goes on: a GenerationResult, or a list of them."""
        deadline = Deadline(seconds(timeout))
        how = self._how(stop, processor, truncate)
        split_special = flag("split_special_tokens", split_special_tokens)
        budget = whole("max_batch_tokens", max_batch_tokens, 1)
        one = is_one(prompt)
        prompts = [prompt] if one else prompt
        settled = self._settled(options, keywords, len(prompts), one)
        asked = []
        for number, (each, own) in enumerate(zip(prompts, settled, strict=True), 1):
            deadline.check()
            name = "the prompt" if one else f"prompt {number}"
            asked.append(self._prompt(each, own, how, split_special, name))
        results = self._run(asked, budget, deadline)
        return answered(results[0]) if one else all_answered(results)

    @lists_options(prompted=True)
    def stream(
        self,
        prompt: Sentence,
        *,
        stop: str | Sequence[str] = (),
        split_special_tokens: bool = True,
        processor: Process | None = None,
        max_batch_tokens: int = BATCH_TOKENS,
        truncate: bool = False,
        timeout: float | None = None,
        options: GenerationOptions | None = None,
        **keywords: Unpack[GenerationKeywords],
    ) -> Iterator[Piece]:
        """How a prompt goes on, piece by piece as it is written; the last one has the result. Of one hypothesis.

        Leaving the loop, or closing the iterator, cancels the request. Until then it holds a session.
        """
        how = self._how(stop, processor, truncate)
        split_special = flag("split_special_tokens", split_special_tokens)
        budget, limit = whole("max_batch_tokens", max_batch_tokens, 1), seconds(timeout)
        if not is_one(prompt):
            raise InputError("stream takes one prompt, found a list of them")
        asked = self._prompt(prompt, self._settle(options, keywords), how, split_special, "the prompt")
        return self._stream(asked, budget, limit)

    @lists_options(prompted=False)
    def chat(
        self,
        messages: Any,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        stop: str | Sequence[str] = (),
        processor: Process | None = None,
        max_batch_tokens: int = BATCH_TOKENS,
        truncate: bool = False,
        timeout: float | None = None,
        options: GenerationOptions | Sequence[GenerationOptions] | None = None,
        **keywords: Unpack[GenerationKeywords],
    ) -> Any:
        """The answer to a conversation, or to each of a list of them: a GenerationResult, or a list of them.

        messages: [{"role": "user", "content": "..."}, ...], as the model's chat template reads them; tools: those that
        it is told of; chat_template_kwargs: its own variables, such as {"enable_thinking": False}. Names of special
        tokens in all of these are text. InputError: what the template has against them. UnsupportedError: the model
        has no chat template.
        """
        deadline = Deadline(seconds(timeout))
        how = self._how(stop, processor, truncate)
        budget = whole("max_batch_tokens", max_batch_tokens, 1)
        one = is_conversation(messages)
        conversations = [messages] if one else messages
        settled = self._settled(options, keywords, len(conversations), one)
        asked = []
        for number, (each, own) in enumerate(zip(conversations, settled, strict=True), 1):
            deadline.check()
            name = "the conversation" if one else f"conversation {number}"
            asked.append(self._conversation(each, tools, chat_template_kwargs, own, how, name))
        results = self._run(asked, budget, deadline)
        return answered(results[0]) if one else all_answered(results)

    @lists_options(prompted=False)
    def chat_stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        stop: str | Sequence[str] = (),
        processor: Process | None = None,
        max_batch_tokens: int = BATCH_TOKENS,
        truncate: bool = False,
        timeout: float | None = None,
        options: GenerationOptions | None = None,
        **keywords: Unpack[GenerationKeywords],
    ) -> Iterator[Piece]:
        """What `stream` gives, of the answer to a conversation as `chat` takes one."""
        if not is_conversation(messages):
            raise InputError("chat_stream takes one conversation, found a list of them")
        how = self._how(stop, processor, truncate)
        budget, limit = whole("max_batch_tokens", max_batch_tokens, 1), seconds(timeout)
        own = self._settle(options, keywords)
        asked = self._conversation(messages, tools, chat_template_kwargs, own, how, "the conversation")
        return self._stream(asked, budget, limit)

    @property
    def chat_template(self) -> ChatTemplate:
        """What makes text of a conversation (`render`). UnsupportedError: the model has none; TokenizerError: it cannot
        be read.
        """
        self._template = self._template or self._open_template()
        if self._template is None or self._tokenizer is None:
            raise UnsupportedError(f"{self._about['path']}: the model has no chat template: give generate a prompt")
        return self._template

    def _conversation(
        self, messages: Any, tools: Any, variables: Any, settled: SearchOptions, how: How, name: str
    ) -> Asked:
        template, variables = self.chat_template, {} if variables is None else variables
        if not isinstance(variables, Mapping) or not all(type(each) is str and each not in _OWN for each in variables):
            message = f"chat_template_kwargs is {shorten(variables)}; expected a template's own variables by name"
            raise OptionError(message)
        if settled.echo and "echo" in settled.spelled:
            message = "echo is True; expected False: a conversation is answered, it does not go on"
            raise OptionError(message, keywords=("echo",))
        settled = replace(settled, echo=False)  # a checkpoint's is for prompts

        def encode(messages: Any) -> list[int]:
            assert self._tokenizer is not None  # else there is no template
            try:
                return template.encode(self._tokenizer, messages, tools, **variables)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None

        read = self._prompts.conversation(Turns(encode, messages), settled, truncate=how.truncate, name=name)
        return self._going_on(read, settled, how, name)

    def _prompt(self, prompt: Sentence, settled: SearchOptions, how: How, split_special: bool, name: str) -> Asked:
        read = self._prompts.prompt(prompt, settled, truncate=how.truncate, split_special=split_special, name=name)
        return self._going_on(read, settled, how, name)

    def _going_on(self, read: Prompt, settled: SearchOptions, how: How, name: str) -> Asked:
        least, longest = settled.length_limits(len(read.ids))
        if longest <= len(read.ids):
            raise OptionError(
                f"max_length is {longest}; expected more than the {len(read.ids)} tokens of {name}",
                keywords=("max_length",),
            )
        low = "min_length" if settled.min_new_tokens is None else "min_new_tokens"
        if least > longest and low in settled.spelled:
            word = settled.spelled[low]
            raise OptionError(
                f"{word} is {getattr(settled, low)}; expected at most {longest - least + getattr(settled, low)} behind "
                f"the {len(read.ids)} tokens of {name}, which may come to {longest}",
                keywords=(word,),
            )
        return self._asked(None, read.ids, read.truncated, settled, how)

    def _echo(self, asked: Asked, deadline: Deadline, opener: Callable[[int], Opened]) -> Echo | None:
        """The prompt, if it is asked for; what the model thinks of its tokens takes another run of it."""
        prompt, options = asked.request.prompt, asked.request.options
        if not options.echo:
            return None
        ids, decoded = tuple(prompt.tolist()), None
        if self._tokenizer is not None:
            decoded = Decoded(self._tokenizer.decode(ids), tuple(self._tokenizer.pieces(ids)))
        if not options.logprobs:
            return Echo(ids, decoded)
        with self._engine.session(deadline, 1, opener=opener) as session:
            log_probs, *best = target_best(session, self._engine.config, prompt, options.logprobs, deadline=deadline)
        return Echo(ids, decoded, tuple(log_probs.tolist()), tuple(best_pairs(*best)))
