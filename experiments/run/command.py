"""What the entry points share: flags, processes, and errors that end in one sentence."""

import errno
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from logging import CRITICAL, ERROR, getLogger
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from experiments.run import exits
from experiments.run import workdir as workdirs
from experiments.run.compiled import keep_compiled
from experiments.run.reporting import console
from jaxflow.training import Preempted, processes

__all__ = ["config_of_run", "fault_of_config_file", "run"]

_DEBUG = flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where no cluster manager says it."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds", 30, "How long a process may be silent before the others give it up."
)

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)

NO_BUCKETS = "folders at gs:// need gcsfs: pip install -e '.[gcs]'"
REPLACE = (
    "a config takes only the keys it has; replace a component whole to give it others, as "
    """--config.path="{'name': 'vp', 'kwargs': {'beta_max': 10.0}}" """
).strip()


def run(main: Callable[[], None]) -> None:
    """Parse the flags, join the other processes and run `main`; errors end in one sentence."""

    def guarded(argv: Sequence[str]) -> None:
        _quieten()
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}: flags begin with --", exits.WRONG_FLAG)
        try:
            _connect()
            if "workdir" in flags.FLAGS and flags.FLAGS["workdir"].value:
                keep_compiled(flags.FLAGS["workdir"].value)
            main()
            processes.together("jaxflow end")
        except Preempted as told:
            _saved(told)
        except KeyboardInterrupt:
            _fail("interrupted; the same command goes on from what was saved", exits.INTERRUPTED)
        except Exception as error:
            sentence, code = _told(error)
            if _DEBUG.value or not sentence:
                traceback.print_exc()
            _fail(sentence or "an error that nobody foresaw; its traceback stands above", code)

    app.run(guarded, flags_parser=_parse)


def _quieten() -> None:
    """Of a write that fails, Orbax's threads tell a dozen times what is said once at the end."""
    logging.set_verbosity(logging.WARNING)
    if _DEBUG.value:
        return
    getLogger("asyncio").setLevel(CRITICAL)
    getLogger("absl").addFilter(lambda told: told.levelno < ERROR or "orbax" not in told.pathname)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = _unless_of_a_closed_loop


def _unless_of_a_closed_loop(told: Any) -> None:
    if "Event loop is closed" not in str(told.exc_value):
        sys.__unraisablehook__(told)


def _connect() -> None:
    given = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    processes.connect(*given, heartbeat_seconds=_HEARTBEAT.value)
    console.quiet = not processes.is_first()


def _told(error: Exception) -> tuple[str, int]:
    """A sentence and an exit code; no sentence for what is an error of the program itself."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return _of_the_runtime(error)
    if isinstance(error, ImportError) and "gcsfs" in str(error):
        return NO_BUCKETS, exits.REFUSED
    if isinstance(error, ChildProcessError | ConnectionError | BlockingIOError):
        return _sentence(error), exits.LOST
    if isinstance(error, ValueError | OSError | ArithmeticError):
        return _sentence(error) + _remedy(error), exits.REFUSED
    return "", exits.WRONG_FLAG


def _of_the_runtime(error: jax.errors.JaxRuntimeError) -> tuple[str, int]:
    text = _sentence(error)[:300]
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return (
            f"a device ran out of memory ({text}): take a smaller batch_size, more "
            "parallel.microbatches, or the layout fsdp"
        ), exits.REFUSED
    if jax.process_count() > 1:
        return (
            f"another process was lost, or failed ({text}): start all of them again, the same "
            "command goes on from the last checkpoint"
        ), exits.LOST
    return text, exits.REFUSED


def config_of_run() -> flags.FlagHolder:
    """A `--config` whose default is the snapshot in `--workdir`, read before flags are parsed."""
    config = ConfigDict() if any(a.startswith("--help") for a in sys.argv) else _snapshot()
    try:
        return config_flags.DEFINE_config_dict("config", config, lock_config=True)
    except (AttributeError, KeyError) as error:
        _fail_for_key(error, sys.argv)


def _snapshot() -> ConfigDict:
    pattern = re.compile(r"--?workdir(?:=(.*))?")
    for argument, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        if found := pattern.fullmatch(argument):
            try:
                folder = found[1] if found[1] is not None else following
                return workdirs.read_config(epath.Path(folder))
            except (ValueError, OSError) as error:
                _fail(str(error), exits.REFUSED)
            except ImportError:
                _fail(NO_BUCKETS, exits.REFUSED)
    return _fail("--workdir=DIR is needed: the folder of a trained run", exits.WRONG_FLAG)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(list(argv))
    except Exception as error:
        if sentence := fault_of_config_file(error, argv):
            _fail(sentence, exits.WRONG_FLAG)
        if isinstance(error, AttributeError | KeyError):
            _fail_for_key(error, argv)
        if isinstance(error, flags.UnrecognizedFlagError):
            hint = (
                "; give --config=FILE before --config.key=value" if "config." in str(error) else ""
            )
            _fail(_sentence(error) + hint, exits.WRONG_FLAG)
        if isinstance(error, flags.Error | TypeError | ValueError | OSError):
            _fail(_sentence(error), exits.WRONG_FLAG)
        raise


def fault_of_config_file(error: BaseException, argv: Sequence[str]) -> str:
    """What is wrong with the file of `--config`, and where in it; empty where nothing is."""
    given = [argv[i + 1] for i, a in enumerate(argv[:-1]) if a in ("--config", "-config")]
    given += [a.partition("=")[2] for a in argv if re.match("--?config=", a)]
    if not given:
        return ""
    file = given[-1].partition(":")[0]
    if isinstance(error, AttributeError) and "has no attribute 'get_config'" in str(error):
        return f"{file} has no get_config(): a config file defines it, and it returns a ConfigDict"
    told, cause = "", error
    while cause is not None:
        lines = [n for frame, n in traceback.walk_tb(cause.__traceback__) if _is(frame, file)]
        if isinstance(cause, SyntaxError) and cause.filename and Path(cause.filename).name in file:
            lines = [cause.lineno]
        if lines:
            told = f"{file}, line {lines[-1]}: {type(cause).__name__}: {_sentence(cause)}"
        cause = cause.__cause__ or cause.__context__
    return told


def _is(frame: FrameType, file: str) -> bool:
    return Path(frame.f_code.co_filename).resolve() == Path(file).resolve()


def _fail_for_key(error: AttributeError | KeyError, argv: Sequence[str]) -> NoReturn:
    """Name the flag with a key that the config lacks, and the key that it may have meant."""
    told = str(error).replace("\\n", " ").replace("\\", "")
    names = re.findall(r"[A-Za-z_]\w*", told)
    wrong = next(
        (a for a in argv if names and re.match(rf"--?config\..*\b{names[0]}\b", a)), "--config"
    )
    near = re.search(r'Did you mean "(\w+)"', told)
    hint = f", did you mean {near[1]!r}?" if near else ""
    _fail(f"{wrong}: there is no such key{hint} ({REPLACE})", exits.WRONG_FLAG)


def _sentence(error: BaseException) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) else error) or type(error).__name__
    return " ".join(text.strip().split("\n\n")[0].split())


def _remedy(error: BaseException) -> str:
    """What to do about a disk; other errors say it themselves."""
    if getattr(error, "errno", None) in _DISK:
        return "; what was saved stands, and the same command goes on once there is room and leave"
    return ""


def _saved(told: Preempted) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"{told}\n")
    sys.exit(exits.INTERRUPTED if told.interrupted else exits.PREEMPTED)


def _fail(sentence: str, code: int) -> NoReturn:
    """Say it and end at once: other processes may never end, nor writers whose disk is full."""
    sys.stdout.flush()
    sys.stderr.write(f"error: {sentence}\n")
    sys.stderr.flush()
    exits.leave(code)
