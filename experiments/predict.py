"""One prediction: what a decode step of a model takes on chips that nobody here need own.

    python -m experiments.predict --model=llama-3.1-8b --chip=h100 --context=2000

Only --model and --chip are needed. Chips and degrees that are left out are the smallest usual
number that holds the model; `--stack=ideal` is what the hardware itself would allow. `--json`
prints one object, `--sensitivity` tells which number would have to change, and `--trace=FILE`
writes the step for ui.perfetto.dev.
"""

import gc

if __name__ == "__main__":
    gc.disable()  # importing makes no garbage; looking for it would be a sixth of the whole run

import dataclasses
import json
from pathlib import Path
from typing import Any

from absl import flags

from experiments.errors import ExperimentError
from experiments.launcher import launch
from experiments.question import Question

flags.DEFINE_string("model", None, "a name of models/zoo.toml, such as llama-3.1-8b")
flags.DEFINE_string("chip", None, "a name of docs/chips.md, host, or a TOML file of your own")
flags.DEFINE_string("weights", "bf16", "bf16, fp8, int8, int4-g32, mxfp4-moe (experts alone), …")
flags.DEFINE_string("kv", "bf16", "the KV cache in bf16, fp8 or int8")
flags.DEFINE_string("stack", "ideal", "the serving software, whose overheads are added")
flags.DEFINE_integer("chips", None, "how many; default: the fewest that hold the model")
flags.DEFINE_integer("tensor", None, "ranks that each layer is split over")
flags.DEFINE_integer("pipeline", None, "stages that the layers are split into")
flags.DEFINE_integer("expert", None, "groups of ranks that experts are spread over")
flags.DEFINE_integer("data", 1, "replicas, each with its share of the batch")
flags.DEFINE_integer("batch", 1, "sequences")
flags.DEFINE_integer("context", 2000, "tokens of each that are in the cache")
flags.DEFINE_float("tokens_per_step", 1.0, "that a step yields on average, with speculation")
flags.DEFINE_integer("draft_tokens", None, "that a step verifies beside its own")
flags.DEFINE_string("draft_model", None, "which proposes them on the same chips; default: free")
flags.DEFINE_string("draft_weights", None, "its weights' format; default: as --weights")
flags.DEFINE_integer("prompt", None, "tokens to prefill: tells the time to the first token")
flags.DEFINE_integer("prefix", 0, "tokens before the prompt that are in the cache already")
flags.DEFINE_string("placement", None, "on-chip, off-chip, fit, hbm, pattern=memory,… or a file")
_JSON = flags.DEFINE_bool("json", False, "one JSON object in place of the table")
_SENSITIVITY = flags.DEFINE_bool(
    "sensitivity", False, "with the elasticity of the step to every number in it"
)
_TRACE = flags.DEFINE_string("trace", None, "a file to write the step to, for ui.perfetto.dev")


def main() -> None:
    """Parse, predict, print."""
    asked = question()
    from experiments.prediction import predicted  # noqa: PLC0415 (JAX takes a second to import)
    from experiments.prediction_printed import as_json, as_text  # noqa: PLC0415

    prediction = predicted(asked)
    if _TRACE.value is not None:
        from emu.perfetto import write_trace  # noqa: PLC0415

        name = f"{asked.model} on {prediction.system.chip.name}"
        write_trace(prediction.timeline, Path(_TRACE.value), name)
    shown = as_json if _JSON.value else as_text
    answer = shown(prediction, sensitivity=_SENSITIVITY.value)
    print(answer if isinstance(answer, str) else json.dumps(answer))


def question() -> Question:
    """What the flags ask for. Raises ExperimentError where a flag is missing or senseless."""
    values: dict[str, Any] = {
        f.name: flags.FLAGS[f.name].value for f in dataclasses.fields(Question)
    }
    for name in ("model", "chip"):
        if not values[name]:
            raise ExperimentError(f"--{name} is missing: {flags.FLAGS[name].help}")
    return Question(**values)


if __name__ == "__main__":
    launch(main)
