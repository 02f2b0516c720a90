"""A model's chat template: messages to the prompt that it was trained on.

Templates are Jinja programs that come with the weights, so they run in Jinja's sandbox, set up as
Hugging Face transformers does it (`apply_chat_template`): the same whitespace rules, and the
functions that templates may call.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from models.errors import ModelError


class ChatTemplate:
    """A chat template, ready to render."""

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        """Compiles the template's source; raises ModelError where it is not valid Jinja."""
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationMark, jinja2.ext.loopcontrols],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ModelError(f"chat template: not valid Jinja: {error}") from error

    def render(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt for messages of {"role", "content"}.

        `add_generation_prompt` ends it where the assistant's answer starts. Raises ModelError with
        what the template says when it refuses the messages or fails.
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._tokens,
            )
        # A template is a program from a file: it can fail in any way that Python code can.
        except Exception as error:
            raise ModelError(f"chat template: {error}") from error


class _GenerationMark(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's words, for training only."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own declaration)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The body itself: what the mark surrounds is rendered as if it were not there."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


def _to_json(value: Any, **options: Any) -> str:
    # Jinja's own filter escapes <, > and & for web pages, which would change the prompt.
    return json.dumps(value, ensure_ascii=False, **options)
