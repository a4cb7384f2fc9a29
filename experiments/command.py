"""What the entry points share: flags, and errors that end in one sentence.

Exit codes: 0 done; 1 a wrong flag or config key; 2 what the sentence says; 130 interrupted.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

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
            _fail("interrupted; the same command goes on from the last checkpoint", 130)
        except (ValueError, OSError, ArithmeticError) as error:
            if _DEBUG.value:
                raise
            _fail(_sentence(error), 2)

    app.run(guarded, flags_parser=_parse)


def config_of_run() -> flags.FlagHolder:
    """A `--config` whose default is the snapshot in `--workdir`, read before flags are parsed."""
    found = [re.fullmatch(r"--?workdir(?:=(.*))?", argument) for argument in sys.argv]
    for i, match in enumerate(found):
        if match:
            value = match[1] if match[1] is not None else (sys.argv[i + 1 :] or [""])[0]
            try:
                config = workdirs.read_config(Path(value))
            except (ValueError, OSError) as error:
                _fail(str(error), 2)
            return config_flags.DEFINE_config_dict("config", config, lock_config=True)
    if any(argument.startswith("--help") for argument in sys.argv):
        return config_flags.DEFINE_config_dict(
            "config", config_flags.config_flags.ml_collections.ConfigDict()
        )
    _fail("--workdir=DIR is needed: the folder of a trained run", 1)
    raise AssertionError


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        _fail(f"{_sentence(error)} ({REPLACE})", 1)
        raise


def _sentence(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return " ".join(text.strip().split("\n\n")[0].split())


def _fail(sentence: str, code: int) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(code)
