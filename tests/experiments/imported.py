"""What the server behind `commands` imports: all but the modules that are run themselves."""
# ruff: noqa: F401

import emu.report
import experiments.cliff
import experiments.decode_latency
import experiments.launcher
import experiments.prediction_printed
import experiments.quickstart
import models.checkpoint
