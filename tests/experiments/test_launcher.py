import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from experiments.errors import ExperimentError
from experiments.launcher import check_config
from tests.waiting import HANGS_S

# ml_collections 1.1 loads config files in a way that Python means to drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

CONFIG = """
from ml_collections import ConfigDict
def get_config():
    config = ConfigDict()
    config.model = "a"
    config.cliff = ConfigDict()
    config.cliff.layers = 3
    return config
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "config.py"
    file.write_text(CONFIG)
    return str(file)


def test_known_keys_pass(config: str) -> None:
    check_config(["run", f"--config={config}", "--config.model=b", "--config.cliff.layers=1"])
    check_config(["run", "--config", config, "-config.model", "b"])
    check_config(["run", "--workdir=x"])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("modle", r"there is no config\.modle: did you mean config\.model\?"),
        ("cliff.layer", r"there is no config\.cliff\.layer: did you mean config\.cliff\.layers\?"),
        ("zzz", r"there is no config\.zzz: there are config\.cliff, "),
    ],
)
def test_unknown_keys_name_the_nearest(config: str, key: str, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        check_config(["run", f"--config={config}", f"--config.{key}=1"])


def test_a_config_must_be_there(tmp_path: Path, config: str) -> None:
    with pytest.raises(ExperimentError, match=r"there is no file /nowhere\.py"):
        check_config(["run", "--config=/nowhere.py"])
    with pytest.raises(ExperimentError, match=r"--config\.model needs --config=FILE before it"):
        check_config(["run", "--config.model=b"])
    other = tmp_path / "other.py"
    other.write_text("def get_config():\n    return 3\n")
    with pytest.raises(ExperimentError, match="must return a ConfigDict"):
        check_config(["run", f"--config={other}"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def get_config(:\n", r"other\.py, line 1: invalid syntax"),
        ("config = 3\n", r"other\.py has no get_config\(\): give it one"),
        ("def get_config():\n    return nothing\n", r"failed with NameError: .*'nothing'"),
        ("def get_config():\n    return int('x')\n", r"failed with ValueError: invalid literal"),
        ("import no_such_module\n", r"other\.py failed with ModuleNotFoundError: "),
    ],
)
def test_a_config_that_cannot_be_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # of an earlier test
    other = tmp_path / "other.py"
    other.write_text(body)
    with pytest.raises(ExperimentError, match=message):
        check_config(["run", f"--config={other}"])


def launched(body: str) -> "subprocess.Popen[str]":
    script = "from experiments.launcher import launch\nimport sys, time\ndef main():\n"
    script += textwrap.indent(textwrap.dedent(body), "    ") + "\nlaunch(main, goes_on=True)\n"
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


def test_a_users_error_is_one_line_and_a_bug_keeps_its_traceback() -> None:
    user = launched("from models.errors import ModelError\nraise ModelError('no such\\n  model')")
    bug = launched("raise ZeroDivisionError('a bug')")
    disk = launched("open('/nowhere/at/all')")
    out, err = user.communicate(timeout=HANGS_S)
    assert (user.returncode, out, err) == (1, "", "error: no such model\n")
    _, err = bug.communicate(timeout=HANGS_S)
    assert bug.returncode == 1
    assert "Traceback" in err
    assert "ZeroDivisionError: a bug" in err
    _, err = disk.communicate(timeout=HANGS_S)
    assert (disk.returncode, err) == (1, "error: /nowhere/at/all: No such file or directory\n")


SLEEPS = "print('ready', flush=True)\ntime.sleep(600)"
# Nothing is taken apart, since programs may be running.
LEAVES_AT_ONCE = "import atexit\natexit.register(print, 'taken apart')\n" + SLEEPS
IN_A_DESTRUCTOR = """
class Held:
    def __del__(self):
        print('ready', flush=True)
        time.sleep(600)
held = Held()
del held
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "body"),
    [
        (signal.SIGTERM, LEAVES_AT_ONCE),
        (signal.SIGINT, SLEEPS),
        (signal.SIGTERM, IN_A_DESTRUCTOR),
    ],
)
def test_a_signal_ends_in_one_line(number: signal.Signals, body: str) -> None:
    process = launched(body)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=HANGS_S)
    assert out == ""
    assert process.returncode == 128 + number
    assert err.strip() == (
        f"stopped by {number.name}; what was finished is kept, and the same command goes on from "
        "there"
    )
