# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Results, read with pandas
#
# Reads the JSON lines that `python -m experiments.run` writes and draws its figures. `EMU_RESULTS` names a `results.jsonl` (or several, separated by `:`); without it the small example in `data/` is read, which `experiments/configs/quickstart.py` made.

# %%
import os

import matplotlib.pyplot as plt
import pandas as pd

MARKERS = "os^DvPX" * 9  # so that no series is told by its hue alone
paths = os.environ.get("EMU_RESULTS", "data/quickstart.jsonl").split(":")
read = [pd.read_json(path, lines=True).assign(file=path) for path in paths]
rows = pd.concat(read, ignore_index=True)
# What was measured again, of other weights or by another JAX, counts once: as it was last.
rows["asked"] = rows["key"].str.rsplit(" @ ", n=1).str[0]
rows = rows.drop_duplicates(["file", "asked"], keep="last", ignore_index=True)
measured = pd.json_normalize(rows["measured"].tolist())
rows = rows.drop(columns="measured").join(measured)
rows.groupby("experiment").size().to_frame("rows")

# %% [markdown]
# ## Where they come from

# %%
origin = pd.json_normalize(rows[["machine", "versions", "git"]].to_dict("records"))
origin.drop_duplicates().T

# %% [markdown]
# ## How long a token takes
#
# HumanEval, one request at a time; milliseconds. TTFT and TPOT are medians over tasks; ITL is over the gaps between the tokens of all tasks together, without those that other processes disturbed.

# %%
answers = rows[rows["experiment"] == "humaneval"].copy()
by = ["dtype", "weights"]
table = pd.DataFrame()
if len(answers):
    over = (answers["excess_bytes"] / 1e6).map(" policy, {:,.0f} MB over capacity".format)
    answers["weights"] = answers["placement"] + over.where(answers["excess_bytes"] > 0, "")
    table = answers.groupby(by, sort=False).agg(
        tasks=("task", "count"),
        weights_MB=("weight_bytes", lambda b: b.iloc[0] / 1e6),
        TTFT_ms=("ttft.median_s", lambda s: s.median() * 1e3),
        TPOT_ms=("tpot_s", lambda s: s.median() * 1e3),
    )
if "gaps_s" in answers:  # files of earlier versions lack it
    calm = (
        (row.dtype, row.weights, gap * 1e3)
        for row in answers.dropna(subset="gaps_s").itertuples()
        for number, gap in enumerate(row.gaps_s)
        if number not in row.gaps_disturbed
    )
    gaps = pd.DataFrame(calm, columns=[*by, "ITL"]).astype({"ITL": float})
    spread = gaps.groupby(by, sort=False)["ITL"].quantile([0.1, 0.5, 0.9, 0.99]).unstack()
    table = table.join(spread.rename(columns=lambda share: f"ITL_ms p{share * 100:.0f}"))
table.round(2)

# %%
if len(answers):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for (name, group), marker in zip(answers.groupby(by, sort=False), MARKERS, strict=False):
        label = ", ".join(name)
        left.plot(group["prompt_tokens"], group["ttft.median_s"] * 1e3, marker, label=label)
        right.plot(group["itl.median_s"] * 1e3, group["itl.p99_s"] * 1e3, marker)
    left.set(xlabel="prompt tokens", ylabel="time to first token, ms")
    right.set(xlabel="a task's median gap between tokens, ms", ylabel="its p99 gap, ms")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)

# %% [markdown]
# ## The cliff
#
# Decode steps of the first layers of the model, by where their weights live: achieved bandwidth against weight bytes. Dotted: the capacity of the on-chip memory.

# %%
sweep = rows[rows["experiment"] == "residency_cliff"].copy()
if len(sweep):
    sweep["MB"] = sweep["weight_bytes"] / 1e6
    sweep["GB_per_s"] = sweep["weight_bytes"] / sweep["latency.median_s"] / 1e9
    sweep["us_per_layer"] = sweep["latency.median_s"] / sweep["layers"] * 1e6
    dtypes = sweep["dtype"].unique()
    figure, axes = plt.subplots(
        2, len(dtypes), figsize=(4.2 * len(dtypes), 6), squeeze=False, layout="constrained"
    )
    for column, dtype in enumerate(dtypes):
        placed = sweep[sweep["dtype"] == dtype].groupby("placement", sort=False)
        for (name, group), marker in zip(placed, MARKERS, strict=False):
            line = group.sort_values("MB")
            axes[0, column].semilogx(line["MB"], line["GB_per_s"], f"{marker}-", label=name)
            axes[1, column].semilogx(line["MB"], line["us_per_layer"], f"{marker}-")
        for row, label in enumerate(["GB/s", "µs per layer"]):
            axes[row, column].set(title=dtype, xlabel="weights, MB", ylabel=label, ylim=(0, None))
            axes[row, column].axvline(sweep["capacity_bytes"].iloc[0] / 1e6, color="grey", ls=":")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)

# %%
speed = pd.DataFrame()
if len(sweep):
    times = sweep.pivot_table(
        index=["dtype", "layers"], columns="placement", values="latency.median_s", sort=False
    )
    if {"on-chip", "off-chip"} <= set(times.columns):
        speed = (times["off-chip"] / times["on-chip"]).unstack("layers")
speed.round(2)

# %% [markdown]
# ## Every row
#
# Latency of one decode step in microseconds; median and percentiles are of the `count` undisturbed samples, or of all where every one was disturbed. Rows marked `disturbed` are not to be trusted.

# %%
names = ["median_s", "p10_s", "p90_s", "p99_s", "p99_all_s"]
every = pd.DataFrame()
if len(sweep):
    every = sweep[["dtype", "layers", "placement", "MB"]].copy()
    for name in names:
        every[name.replace("_s", "_us")] = sweep[f"latency.{name}"] * 1e6
    for name in ("count", "disturbed_count", "disturbed", "metered"):
        every[name] = sweep[f"latency.{name}"]
every.round(2)
