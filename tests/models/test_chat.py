"""Chat templates: set up as transformers does, sandboxed, failures in one line."""

import datetime

import pytest

from models.chat import ChatTemplate
from models.errors import ModelError

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<yes> & 'no'"}]


def render(source, messages=CHAT, *, add_generation_prompt=True, **tokens):
    return ChatTemplate(source, **tokens).render(
        messages, add_generation_prompt=add_generation_prompt
    )


def test_messages_tokens_and_generation_prompt():
    source = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    expected = "<s>[user]hi</s>[assistant]<yes> & 'no'</s>"
    assert render(source, **tokens, add_generation_prompt=False) == expected
    assert render(source, **tokens) == f"{expected}[assistant]"


def test_blocks_take_their_line_with_them():
    # trim_blocks and lstrip_blocks: neither the indent before a block nor the newline behind it.
    source = "a\n  {% for m in messages %}\n{{ m.role }}\n  {% endfor %}\nb"
    assert render(source) == "a\nuser\nassistant\nb"


def test_to_json_does_not_escape_for_web_pages():
    assert render("{{ messages[1] | tojson }}") == (
        '{"role": "assistant", "content": "<yes> & \'no\'"}'
    )
    assert render("{{ {'ü': 1} | tojson(indent=2) }}") == '{\n  "ü": 1\n}'


def test_functions_and_statements_that_templates_use():
    assert render("{{ strftime_now('%Y') }}") == str(datetime.datetime.now().year)
    assert render("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}") == "user"
    assert render("{% generation %}kept{{ messages[0].role }}{% endgeneration %}") == "keptuser"
    assert render("{{ tools is none }} {{ documents is none }}") == "True True"


@pytest.mark.parametrize("source", ["{% for %}", "{{ a", "{% if x %}", "{% nonsense %}"])
def test_what_is_not_jinja_is_refused(source):
    with pytest.raises(ModelError, match="chat template: not valid Jinja"):
        ChatTemplate(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "chat template: roles must alternate"),
        ("{{ messages[0].role + 1 }}", "chat template: can only concatenate str"),
        ("{{ 1 / 0 }}", "chat template: division by zero"),
        ("{{ nothing.at.all }}", "chat template: 'nothing' is undefined"),
        # What the sandbox is for: a file must not reach the machine through its template.
        ("{{ ''.__class__.__mro__ }}", "chat template: access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "chat template: access to attribute 'append'"),
        ("{% for i in range(10**9) %}{% endfor %}", "chat template: Range too big"),
    ],
)
def test_failures_of_a_template_are_one_clear_error(source, message):
    with pytest.raises(ModelError, match=message) as failure:
        render(source)
    assert "\n" not in str(failure.value)


def test_the_caller_keeps_their_messages():
    messages = [{"role": "user", "content": "hi"}]
    render("{{ messages[0].role }}", messages)
    assert messages == [{"role": "user", "content": "hi"}]
