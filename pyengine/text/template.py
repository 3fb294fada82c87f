"""A chat template, run in jinja's sandbox as transformers 5.24.0 runs it, within a budget.

The tree that jinja parses gets a payment at the beginning of each body that may run again, and around each operation
that the sandbox does not ask about; what it asks about pays in the environment.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from types import FunctionType
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes as nodes
import jinja2.parser
import jinja2.visitor
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context

from pyengine.errors import InputError, TokenizerError
from pyengine.text.template_budget import BUDGET, Budget, OverBudgetError
from pyengine.text.template_operations import (
    FILTERS,
    METHODS,
    TESTS,
    pay_filter,
    pay_method,
    pay_operator,
    pay_test,
)

__all__ = ["Template"]

_NODES = 16  # of a body: a step
_PATTERN = 1000


class _Refusal(Exception):
    """What a template says of messages that it does not take."""


class Template:
    """A template, compiled. ``where``: what messages of errors name."""

    def __init__(self, source: str, where: str) -> None:
        """Raises TokenizerError: this is no template."""
        self._where = where
        environment = _Environment()
        try:
            tree = _Payments().visit(environment.parse(source))
            code = environment.compile(tree.set_environment(environment))
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError, MemoryError, OverflowError) as error:
            line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise TokenizerError(f"{where}: expected a chat template: {line}{error!s:.200}") from error
        self._template = jinja2.Template.from_code(environment, code, environment.make_globals(None))

    def render(self, variables: dict[str, Any]) -> str:
        """Raises InputError: the template refuses the messages; TokenizerError: it fails, or takes too long."""
        token = BUDGET.set(Budget())
        try:
            return self._template.render(variables)
        except _Refusal as refusal:
            raise InputError(f"the chat template refuses these messages: {refusal}") from None
        except Exception as error:  # whatever a template's own operations raise
            raise TokenizerError(f"{self._where}: the chat template fails: {error!s:.200}") from error
        finally:
            BUDGET.reset(token)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        # Nothing is computed while a template is compiled, when nobody counts.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_written,
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )
        self.filters["tojson"] = _tojson
        self.filters = {name: _paid_filter(name, self.filters[name]) for name in FILTERS}
        self.tests = {name: _paid_test(name, self.tests[name]) for name in TESTS}
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = _Namespace
        self.body, self.made, self.read, self.spread, self.text = _body, _made, _read, _spread, _text

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        allowed = METHODS.get(str if isinstance(obj, str) else type(obj))
        return super().is_safe_attribute(obj, attr, value) and (allowed is None or attr in allowed)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if isinstance(__obj, FunctionType) and __obj in _PAYMENTS:
            return __obj(*args)
        budget = BUDGET.get()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, (str, list, tuple, dict, range)):
            given = [*args, *(value for name, value in kwargs.items() if name[0] != "_")]
            pay_method(budget, owner, __obj.__name__, given)
        elif isinstance(owner, jinja2.runtime.LoopContext):
            budget.walk(args)  # it may be compared
        else:
            budget.spend(1)
        result = super().call(__context, __obj, *args, **kwargs)
        budget.made(result)
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget = BUDGET.get()
        pay_operator(budget, operator, left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        format_ = super().wrap_str_format(value)
        if format_ is None:
            return None
        text = value.__self__

        def paid(*args: Any, **kwargs: Any) -> str:
            BUDGET.get().formatted(text, [*args, *kwargs.values()])
            return format_(*args, **kwargs)

        return paid


class _Payments(jinja2.visitor.NodeTransformer):
    """Puts payments into a tree."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        pay = self._body(node.body)
        if node.test is not None:
            count = nodes.Test(pay.node, "none", [], [], None, None)  # true: a payment gives None
            node.test = nodes.And(count, node.test)
        node.body.insert(0, pay)
        return self.generic_visit(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        node.body.insert(0, self._body(node.body))
        return self.generic_visit(node)

    visit_CallBlock = visit_Block = visit_Macro

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = _pay("spread", node.dyn_args)
        return node

    visit_Filter = visit_Test = visit_Call

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_pay("text", each) for each in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        operands = node.ops
        short = isinstance(node.expr, nodes.Const) or isinstance(operands[0].expr, nodes.Const)
        if len(operands) == 1 and short and operands[0].op not in ("in", "notin"):
            return node  # no more than the constant is compared
        node.expr = _pay("read", node.expr)
        for each in operands:
            each.expr = _pay("read", each.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _pay("made", node)
        node.arg = self._key(node.arg)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _pay("made", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        for pair in node.items:
            pair.key = self._key(pair.key)
        return _pay("made", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _pay("made", node) if node.ctx == "load" else node

    def _key(self, key: nodes.Expr) -> nodes.Expr:
        """A hash goes over all of a tuple."""
        return key if isinstance(key, nodes.Const) else _pay("read", key)

    def _body(self, body: list[nodes.Node]) -> nodes.ExprStmt:
        inside = [each for part in body for each in (part, *part.find_all(nodes.Node))]
        data = sum(len(each.data) for each in inside if isinstance(each, nodes.TemplateData))
        weight = 1 + len(inside) // _NODES
        return nodes.ExprStmt(_pay("body", nodes.Const(weight), nodes.Const(data)))


def _pay(name: str, *given: nodes.Expr) -> nodes.Expr:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(given), [], None, None, lineno=given[0].lineno or 1)


def _body(steps: int, characters: int) -> None:
    budget = BUDGET.get()
    budget.spend(steps)
    if characters:
        budget.make(characters)


def _made(value: Any) -> Any:
    BUDGET.get().made(value)
    return value


def _read(value: Any) -> Any:
    BUDGET.get().walk(value)
    return value


def _spread(value: Any) -> Any:
    if hasattr(value, "__len__"):
        BUDGET.get().items(len(value))
    return value


def _text(value: Any) -> Any:
    BUDGET.get().text_of(value)
    return value


_PAYMENTS: frozenset[Any] = frozenset((_body, _made, _read, _spread, _text))


@pass_context
def _written(_: Any, value: Any) -> Any:
    """Of each value that becomes text of the conversation."""
    return _text(value)


def _paid_filter(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    passed = 1 if hasattr(run, "jinja_pass_arg") else 0  # a context or the like, before the value

    @functools.wraps(run)
    def paid(*args: Any, **kwargs: Any) -> Any:
        budget = BUDGET.get()
        pay_filter(budget, name, list(args[passed:]), kwargs)
        result = run(*args, **kwargs)
        if isinstance(result, Iterator):  # one that runs on by itself would do so unpaid
            items = []
            for item in result:
                budget.spend(1)
                items.append(item)
            result = items
        if name not in ("default", "d", "first", "last", "attr", "safe"):
            budget.made(result)
        return result

    return paid


def _paid_test(name: str, run: Any) -> Callable[..., Any]:
    passed = 1 if hasattr(run, "jinja_pass_arg") else 0

    @functools.wraps(run)
    def paid(*args: Any) -> Any:
        pay_test(BUDGET.get(), name, list(args[passed:]))
        return run(*args)

    return paid


class _Generation(jinja2.ext.Extension):
    """``{% generation %}``, which marks what an assistant wrote: its text is there as it is."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """``dict`` without what else the type can do."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*_read(args), **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*_read(args))


class _Namespace(Namespace):
    """A namespace whose attributes are those of a template."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # a template may name one "self"
        self, *rest = args
        attributes = dict(*_read(rest), **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has no attribute {name!r}")


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> NoReturn:
    raise _Refusal(str(_text(message)))


def _strftime_now(pattern: str) -> str:
    if len(pattern) > _PATTERN:  # strftime takes memory for 256 times as much
        raise OverBudgetError(f"it writes the time in more than {_PATTERN} characters")
    return datetime.now().strftime(pattern)
