"""What the entry points share: flags, and errors that end in one sentence.

Exit codes: 0 done; 1 a wrong flag or config key; 2 what the sentence says; 130 interrupted.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from experiments import workdir as workdirs

__all__ = ["config_of_run", "run"]

_DEBUG = flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.")

REPLACE = (
    "a config takes only the keys it has; replace a component whole to give it others, as "
    """--config.path="{'name': 'vp', 'kwargs': {'beta_max': 10.0}}" """
).strip()


def run(main: Callable[[], None]) -> None:
    """Parse the flags and run `main`; what users can mend ends in one sentence."""

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}: flags begin with --", 1)
        try:
            main()
        except KeyboardInterrupt:
            _fail("interrupted; the same command goes on from what was saved", 130)
        except (ValueError, OSError, ArithmeticError) as error:
            if _DEBUG.value:
                raise
            _fail(_sentence(error), 2)

    app.run(guarded, flags_parser=_parse)


def config_of_run() -> flags.FlagHolder:
    """A `--config` whose default is the snapshot in `--workdir`, read before flags are parsed."""
    config = ConfigDict() if any(a.startswith("--help") for a in sys.argv) else _snapshot()
    return config_flags.DEFINE_config_dict("config", config, lock_config=True)


def _snapshot() -> ConfigDict:
    pattern = re.compile(r"--?workdir(?:=(.*))?")
    for argument, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        if found := pattern.fullmatch(argument):
            try:
                return workdirs.read_config(Path(found[1] if found[1] is not None else following))
            except (ValueError, OSError) as error:
                _fail(str(error), 2)
    return _fail("--workdir=DIR is needed: the folder of a trained run", 1)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(list(argv))
    except (AttributeError, KeyError) as error:
        name = str(error.args[0]).split("\n")[0].strip("'")
        wrong = next((a for a in argv if a.startswith("--config") and name in a), "--config")
        _fail(f"{wrong}: there is no such key ({_sentence(error)}); {REPLACE}", 1)
    except flags.UnrecognizedFlagError as error:
        hint = "; give --config=FILE before --config.key=value" if "config." in str(error) else ""
        _fail(_sentence(error) + hint, 1)
    except (flags.Error, TypeError, ValueError, OSError) as error:
        _fail(_sentence(error), 1)


def _sentence(error: BaseException) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) else error) or type(error).__name__
    return " ".join(text.strip().split("\n\n")[0].split())


def _fail(sentence: str, code: int) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(code)
