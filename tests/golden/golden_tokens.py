"""Token ids of tricky strings, and a rendered chat: smollm2_tokens.json and tiny_tokens.json.

The ids are what two programs agree on: llama.cpp, which reads the GGUF file itself, and the
`tokenizers` package, given the file's vocabulary and merges behind the pre-tokeniser that the model
was published with. (transformers' own reading of the GGUF file is no help: it leaves out the split
into single digits.) Where they do not agree, both answers are kept, by name.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import golden_tokenizer
import llama_cpp
import tokenizers
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models

TEXTS = (
    "",
    " ",
    "Hello, world!",
    "1234567890 3.14159 0xFF 1e-9",
    "x1y22z333",
    "\tdef f(x):\n\t\treturn x\n",
    "    if a:\n        return b\n\n\n    else:\n",
    "line one\r\nline two\r\n\r\nend",
    "trailing spaces   ",
    "   leading spaces",
    " a  b   c    d",
    "don't I'll we've they're it's I'm he'd DON'T IT'S",
    "🙂👩‍👩‍👧‍👦🇨🇭 ok",
    "中文字符和标点。\uff0c123",
    "こんにちは 한국어 العربية हिन्दी",
    "e\u0301 cafe\u0301 n\u0303",
    "naïve café Zürich ½ ² ①",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b <|im_end|> <|im_end |>",
    " " * 100 + "x",
    "\n" * 20 + "x\n" + "\t" * 17,
    "snake_case camelCase __init__ a.b->c != <= ** //",
    "def has_close_elements(numbers: List[float], threshold: float) -> bool:\n",
    "https://example.com/a?b=c&d=%20#frag",
    "\u00a0non\u2003breaking\u200bzero\ufeff",
    "\x00\x01\x7f",
    '\'\'\'"""```python\nprint(f"{x!r}")\n```',
)

MESSAGES = (
    {"role": "user", "content": "Write add(a, b) in Python.\n"},
    {"role": "assistant", "content": "def add(a, b):\n    return a + b"},
    {"role": "user", "content": "  Now with <types> & 'docs'. "},
)
SYSTEM = {"role": "system", "content": "You answer in code."}


def peer_tokenizer(path: Path) -> tuple[Tokenizer, str]:
    """A GGUF file's tokeniser built with `tokenizers`, and its chat template."""
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    kinds = fields["tokenizer.ggml.token_type"].contents()
    peer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    golden_tokenizer.set_pre_tokenizer(peer, fields["tokenizer.ggml.pre"].contents())
    peer.decoder = decoders.ByteLevel()
    control = [t for t, k in zip(tokens, kinds, strict=True) if k == gguf.TokenType.CONTROL]
    peer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return peer, fields["tokenizer.chat_template"].contents()


def cases(path: Path) -> list[dict[str, Any]]:
    """Per text its ids; where the two programs differ, llama.cpp's ids are beside them."""
    vocabulary = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    peer, _ = peer_tokenizer(path)
    found = []
    for text in TEXTS:
        ours = peer.encode(text, add_special_tokens=False).ids
        theirs = vocabulary.tokenize(text.encode(), add_bos=False, special=True)
        case: dict[str, Any] = {"text": text, "ids": ours, "by": ["tokenizers", "llama.cpp"]}
        if ours != theirs:
            case |= {"by": ["tokenizers"], "llama_cpp_ids": theirs}
            print(f"{path.name}: {text!r}: {ours} by tokenizers, {theirs} by llama.cpp")
        found.append(case)
    return found


def chats(path: Path) -> list[dict[str, Any]]:
    """Conversations as transformers renders them with the file's template."""
    peer, template = peer_tokenizer(path)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=peer, chat_template=template)
    return [
        {
            "messages": messages,
            "add_generation_prompt": prompt,
            "rendered": wrapped.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt
            ),
        }
        for messages in (list(MESSAGES), [SYSTEM, *MESSAGES])
        for prompt in (True, False)
    ]


def versions() -> dict[str, str]:
    """Which programs the ids come from."""
    return {
        "tokenizers": tokenizers.__version__,
        "transformers": transformers.__version__,
        "llama-cpp-python": llama_cpp.__version__,
    }


def make(out: Path, smollm2: Path) -> None:
    """Write smollm2_tokens.json, and tiny_tokens.json (after golden_gguf.make)."""
    digest = hashlib.sha256(smollm2.read_bytes()).hexdigest()
    real = {
        "source_gguf": smollm2.name,
        "source_sha256": digest,
        "made_by": versions(),
        "cases": cases(smollm2),
        "chats": chats(smollm2),
    }
    save(real, out / "smollm2_tokens.json")
    tiny = {
        "made_by": versions(),
        "smollm": cases(out / "tiny_mixed.gguf"),
        "qwen2": cases(out / "tiny_qwen2.gguf"),
        "chats": chats(out / "tiny_qwen2.gguf"),
    }
    save(tiny, out / "tiny_tokens.json")


def save(content: dict[str, Any], path: Path) -> None:
    """Write JSON, a list of ids on one line."""
    lines = [f"{json.dumps(k)}: {rows(v)}" for k, v in content.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def rows(value: Any) -> str:
    """A list as one row per element, anything else as it is."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]"
    return json.dumps(value)
