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
# # Machines beside each other
#
# Reads any number of workdirs, folders or buckets, into one table. `EMU_RESULTS` names them,
# separated by spaces: `EMU_RESULTS="demo gs://bucket/cliff-h100 s3://bucket/cliff-v5e"`. Without it
# the small results in `data/` are read, of one machine with a CPU. machines.py is the notebook as text,
# to be read and compared; `jupytext --sync machines.py` brings both forms together.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from emu.report import drawn, text
from experiments.configs import seconds_saved
from experiments.gathered import gathered, sessions
from experiments.run import chosen

MARKERS = "os^DvPX" * 9  # so that no series is told by its hue alone
shipped = "data/quickstart.jsonl data/cliff.jsonl data/sessions.jsonl"
rows, table = gathered(os.environ.get("EMU_RESULTS", shipped).split())
table.groupby(["workdir", "machine", "experiment"]).size().to_frame("rows")

# %% [markdown]
# ## The cliff, on each machine
#
# Decode steps of a model's first layers: bytes of weights over the time of a step. Solid: on chip,
# dashed: off chip. Dotted lines: the capacity of the on-chip memory.

# %%
sweep = table[table["experiment"] == "residency_cliff"]
if len(sweep):
    sweep = sweep.assign(
        MB=sweep["weight_bytes"] / 1e6,
        GB_per_s=sweep["weight_bytes"] / sweep["latency.median_s"] / 1e9,
        place=sweep["on_chip"] + " / " + sweep["off_chip"],
    )
    dtypes = sweep["dtype"].unique()
    figure, axes = plt.subplots(
        1, len(dtypes), figsize=(4.2 * len(dtypes), 3.8), squeeze=False, layout="constrained"
    )
    for axis, dtype in zip(axes[0], dtypes, strict=True):
        lines = sweep[sweep["dtype"] == dtype].groupby(["workdir", "machine", "place"], sort=False)
        for number, ((workdir, machine, place), line) in enumerate(lines):
            for placement, style in (("on-chip", "-"), ("off-chip", "--")):
                points = line[line["placement"] == placement].sort_values("MB")
                axis.loglog(
                    points["MB"],
                    points["GB_per_s"],
                    MARKERS[number] + style,
                    color=f"C{number}",
                    label=f"{workdir}: {machine}, {place}, {placement}",
                )
            capacity = line["capacity_bytes"].iloc[0] / 1e6
            axis.axvline(capacity, color=f"C{number}", ls=":")
        axis.set(title=dtype, xlabel="weights, MB", ylabel="GB/s")
    handles = {}
    for axis in axes[0]:
        found, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", frameon=False)

# %% [markdown]
# How many times as fast a step is with its weights on chip, and what the sweep says of dispatch:
# the called step over one of many in one program, where both were measured.

# %%
if len(sweep):
    times = sweep.pivot_table(
        index=["workdir", "dtype", "MB"], columns="placement", values="latency.median_s"
    )
    gain = (times["off-chip"] / times["on-chip"]).rename("off/on").to_frame()
    if "device_mean_s" in sweep:
        share = (sweep["latency.median_s"] / sweep["device_mean_s"]).rename("called/in one")
        on_chip = sweep.assign(share=share)[sweep["placement"] == "on-chip"]
        gain["called/in one"] = on_chip.set_index(["workdir", "dtype", "MB"])["share"]
    display(gain.round(2))

# %% [markdown]
# ## Measured against predicted
#
# What `emu.predict` said of each step from `emu.host()` alone, where the rows have it.

# %%
if "predicted_s" in table and table["predicted_s"].notna().any():
    both = table.dropna(subset=["predicted_s"])
    error = (both["predicted_s"] / both["latency.median_s"] - 1).abs()
    figure, axis = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    by = both.groupby(["workdir", "machine", "placement"], sort=False)
    for marker, ((workdir, machine, placement), group) in zip(MARKERS, by, strict=False):
        measured, predicted = group["latency.median_s"] * 1e6, group["predicted_s"] * 1e6
        axis.loglog(measured, predicted, marker, label=f"{workdir}: {machine}, {placement}")
    ends = np.array(axis.get_xlim())
    axis.loglog(ends, ends, color="grey", lw=1)
    axis.set(xlabel="measured, µs a step", ylabel="predicted, µs a step")
    figure.legend(loc="outside lower center", frameon=False, fontsize=8)
    display(
        both.assign(error=error)
        .groupby(["workdir", "machine"])["error"]
        .describe(percentiles=[0.5, 0.9])
        .round(3)
    )

# %% [markdown]
# ## Coding sessions
#
# Where the seconds of a coding agent's requests go, of predicted step times: a model, as is said
# below the pictures.

# %%
_, settings = chosen(seconds_saved.get_config())
report = sessions(rows, settings)
if report is not None:
    for picture in report.figures:
        display(drawn(picture))
    print(text(report, 100))
