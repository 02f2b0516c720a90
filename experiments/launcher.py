"""How every launcher starts and ends: absl flags in, one clear line out when it cannot go on.

What a user can put right (a flag, a config, a file, a full disk) ends in `error: …` on standard
error and exit status 1. SIGTERM and ctrl-C end in one line too, with the shell's usual status.
Anything else is a bug of ours and keeps its traceback.
"""

import contextlib
import os
import re
import signal
import sys
import types
from collections.abc import Callable
from logging import Formatter, LogRecord
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from emu.errors import EmuError
from experiments.errors import ExperimentError
from experiments.settings import flat_keys, unknown
from models.errors import ModelError

_SOON_S = 0.01

USER_ERRORS = (ModelError, EmuError, ExperimentError, OSError)


class _Plain(Formatter):
    """A warning as a line for people, without the thread and the line of code it came from."""

    def format(self, record: LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


class Stopped(BaseException):
    """SIGTERM or ctrl-C asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number  # as a shell tells of it


def launch(main: Callable[[], None], *, goes_on: bool = False) -> NoReturn:
    """Parse the command line and run `main`.

    Args:
      main: reads its flags; takes nothing and returns nothing.
      goes_on: whether running the same command again goes on where it stopped.
    """

    def guarded(rest: list[str]) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        sys.unraisablehook = _not_lost
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # JAX tells of every backend it lacks
        logging.get_absl_handler().setFormatter(_Plain())
        try:
            if rest[1:]:
                raise ExperimentError(f"{rest[1]!r} is not a flag: flags begin with --")
            main()
        except Stopped as stopped:
            again = "; what was finished is kept, and the same command goes on from there"
            print(f"\nstopped by {stopped}{again if goes_on else ''}", file=sys.stderr)
            _leave(stopped.status)
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output went away; nothing to tell anyone
            sys.exit(1)
        except USER_ERRORS as error:
            fail(error)

    app.run(guarded, flags_parser=_parse)
    raise AssertionError("app.run does not return")


def fail(error: Exception) -> NoReturn:
    """End with one line on standard error."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print("error: " + re.sub(r"\s*\n\s*", " ", text.strip()), file=sys.stderr)
    sys.exit(1)


def _parse(arguments: list[str]) -> list[str]:
    try:
        check_config(arguments)
        rest: list[str] = flags.FLAGS(arguments)
    except (ExperimentError, flags.Error) as error:
        fail(error)
    return rest


def check_config(arguments: list[str], name: str = "config") -> None:
    """Check that the config file is there and has every key that is overridden.

    config_flags itself answers an unknown key with a traceback into its own code.
    """
    path = _flag(arguments, name)
    overridden = [
        match[1]
        for argument in arguments[1:]
        if (match := re.match(rf"--?(?:no)?({name}\.[^=]+)", argument))
    ]
    if path is None:
        if overridden:
            raise ExperimentError(f"--{overridden[0]} needs --{name}=FILE before it")
        return
    file = path.split(":", 1)[0]
    if not Path(file).is_file():
        raise ExperimentError(f"--{name}: there is no file {file}")
    alone = [arguments[0], f"--{name}={path}"]
    values = flags.FlagValues()  # type: ignore[no-untyped-call]
    holder = config_flags.DEFINE_config_file(name, flag_values=values, sys_argv=alone)
    try:
        values(alone)
        config = holder.value
    except Exception as error:  # whatever the user's own file raises when it is run
        raise ExperimentError(f"--{name}: {_why(error, file)}") from error
    if not isinstance(config, ConfigDict):
        raise ExperimentError(f"--{name}: get_config() in {file} must return a ConfigDict")
    known = flat_keys(config, name)
    for key in overridden:
        if key not in known:
            raise unknown(key, known)


def _why(error: Exception, file: str) -> str:
    """What is wrong with a config file that raised this, in a line."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or file}, line {error.lineno}: {error.msg}"
    if isinstance(error, AttributeError) and "get_config" in str(error):
        return f"{file} has no get_config(): give it one that returns a ConfigDict"
    last = " ".join(str(error).strip().splitlines()[-1:])
    if isinstance(error, flags.Error):  # absl wraps some; the last line of a traceback is inside
        return f"{file} failed with {last}"
    return f"{file} failed with {type(error).__name__}: {last}"


def _flag(arguments: list[str], name: str) -> str | None:
    """The value of `--name=value` or `--name value`; the last one wins."""
    value = None
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if match := re.match(rf"--?{name}(?:=(.*))?$", argument):
            value = following if match[1] is None else match[1]
    return value


def _stop(number: int, frame: types.FrameType | None) -> NoReturn:
    del frame
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise Stopped(number)


def _not_lost(error: "sys.UnraisableHookArgs") -> None:
    """Stop a little later where the signal came inside what cannot raise, such as a destructor."""
    stopped = error.exc_value
    if not isinstance(stopped, Stopped):
        sys.__unraisablehook__(error)
        return

    def again(number: int, frame: types.FrameType | None) -> NoReturn:
        del number, frame
        raise stopped

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, _SOON_S)


def _leave(status: int) -> NoReturn:
    """End without taking JAX apart: a signal comes at any moment, also while its programs run."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the reader went away
            stream.flush()
    os._exit(status)
