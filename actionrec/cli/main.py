"""The command line: `actionrec --help`.

`VERBS` lists the verbs; each is a function in a module of this folder. Verbs import PyTorch and
other heavy libraries inside, so that help and wrong usage answer at once. docs/errors.md explains
the exit codes.
"""

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from jsonargparse import Namespace

from actionrec.cli.app import app
from actionrec.cli.data import (
    data_check,
    data_download,
    data_import,
    data_index,
    data_list,
    data_shrink,
)
from actionrec.cli.evaluate import compare, evaluate
from actionrec.cli.explain import explain
from actionrec.cli.models import calibrate, export, info, weights_download, weights_list
from actionrec.cli.parser import (
    STAGES,
    HelpFormatter,
    Parser,
    complain,
    summary,
    train_settings_parser,
    verb_parser,
)
from actionrec.cli.predict import (
    PREDICT_OUTPUT,
    TIMELINE_OUTPUT,
    features,
    predict,
    timeline,
    watch,
)
from actionrec.cli.train import train, tune
from actionrec.config import DatasetName, Positive, TrainConfig
from actionrec.errors import ActionrecError, reason_of
from actionrec.files import VIDEO_SUFFIXES
from actionrec.text import VisibleFormatter, use_utf8
from actionrec.video.block_cache import cache_size
from actionrec.video.pictures import FRAME_RATE, frame_rate


@dataclass(frozen=True)
class Verb:
    """A verb: its function, and a function that builds the parser of its flags."""

    function: Callable[..., int]
    parser: Callable[[], Parser]


def _verb(function: Callable[..., int], *positional: str, **special: dict) -> Verb:
    return Verb(function, lambda: verb_parser(function, *positional, **special))


# Flags that hold for the processes that a verb starts, too, and what tells these.
OF_EVERY_VERB = {
    "--cache-size": "ACTIONREC_CACHE_SIZE",
    "--frame-rate": FRAME_RATE,
}
SWITCH = {"action": "store_true"}
DATASET = {"type": DatasetName}

# Flags of the verbs that read lists of videos.
OF_LISTS = {
    "files_from": {"metavar": "LIST"},
    "workers": {"metavar": "N|MIN:MAX"},
    "gpus_per_worker": {"type": Positive, "metavar": "X"},
}

VERBS = {
    "predict": _verb(
        predict,
        "paths",
        paths={"nargs": "*", "default": []},
        output=PREDICT_OUTPUT,
        **OF_LISTS,
    ),
    "features": _verb(features, "paths", paths={"nargs": "*", "default": []}, **OF_LISTS),
    "timeline": _verb(timeline, "paths", paths={"nargs": "+"}, output=TIMELINE_OUTPUT),
    "watch": _verb(watch, "source"),
    "train": Verb(train, lambda: train_settings_parser(train)),
    "tune": Verb(
        tune,
        lambda: train_settings_parser(
            tune, what={"type": Literal["lr", "batch_size"], "help": "Setting to find."}
        ),
    ),
    "evaluate": _verb(evaluate, timeline=SWITCH),
    "compare": _verb(
        compare,
        "files",
        files={"nargs": "*", "default": []},
        a={"nargs": "+", "default": [], "metavar": "FILE"},
        b={"nargs": "+", "default": [], "metavar": "FILE"},
    ),
    "calibrate": _verb(calibrate, "model"),
    "explain": _verb(explain, "video", point={"nargs": 2, "type": int, "metavar": ("X", "Y")}),
    "export": _verb(export),
    "info": _verb(info, stages=STAGES),
    "app": _verb(app, open=SWITCH),
    "weights list": _verb(weights_list),
    "weights download": _verb(weights_download, "name"),
    "data list": _verb(data_list, "dataset", dataset=DATASET | {"nargs": "?"}),
    "data download": _verb(data_download, "dataset", dataset={"type": Literal["ucf101"]}),
    "data import": _verb(data_import, "files", files={"nargs": "+"}),
    "data check": _verb(data_check, "dataset", dataset=DATASET, again=SWITCH),
    "data index": _verb(data_index, "sources", sources={"nargs": "+"}),
    "data shrink": _verb(data_shrink, "dataset", dataset=DATASET),
}
FAMILIES = {
    "weights": "List and download pretrained weights.",
    "data": "List, download, import, check, index and shrink data sets.",
}


def build_parser(words: Sequence[str] | None = None) -> Parser:
    """The parser of the whole command line, with a subcommand for each verb.

    Of a command line's words, only the verbs among them get their flags, which take a tenth of a
    second for all.
    """
    parser = Parser(
        prog="actionrec",
        description="Recognise human actions in video.",
        epilog="`actionrec VERB --help` shows examples. --debug shows the traceback of an error; "
        "--cache-size GB limits what is kept of remote videos; --frame-rate FPS is the rate of "
        "folders of frames.",
        version=f"actionrec {version('actionrec')}",
        formatter_class=HelpFormatter,
    )
    verbs = parser.add_subcommands(dest="verb", metavar="VERB")
    families = {}
    for name, verb in VERBS.items():
        family, _, member = name.rpartition(" ")
        if family and family not in families:
            subparser = Parser(description=FAMILIES[family])
            verbs.add_subcommand(family, subparser, help=FAMILIES[family])
            families[family] = subparser.add_subcommands(dest=f"{family}_verb", metavar="VERB")
        place = families[family] if family else verbs
        asked = words is None or set(name.split()) <= set(words)
        subparser = verb.parser() if asked else Parser()
        place.add_subcommand(member, subparser, help=summary(verb.function))
    return parser


def run(options: Namespace) -> int:
    """Call the chosen verb."""
    name, values = options.verb, options[options.verb]
    if name in FAMILIES:
        member = values[f"{name}_verb"]
        name, values = f"{name} {member}", values[member]
    arguments = vars(values)
    if name in ("train", "tune"):
        del arguments["config"]
        positional = [arguments.pop("what")] if name == "tune" else []
        return VERBS[name].function(*positional, TrainConfig(**arguments))
    return VERBS[name].function(**{key: _plain(value) for key, value in arguments.items()})


def _plain(value: Any) -> Any:
    """A number of a type with bounds as Python's own, which other processes can read."""
    for number in (float, int):
        if isinstance(value, number) and not isinstance(value, bool):
            return number(value)
    return value


def _dashed_file_as_path(word: str) -> str:
    """The word, as a path where it would be taken for a flag but is a video's name: -v.mp4."""
    is_file = word.startswith("-") and word.lower().endswith(tuple(VIDEO_SUFFIXES))
    return f"./{word}" if is_file and os.path.isfile(word) else word


def _flag_and_value(word: str) -> list[str]:
    """--cache-size=20 as two words, any other word as it is."""
    parts = word.split("=", 1)
    return parts if parts[0] in OF_EVERY_VERB else [word]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. `actionrec.__main__` calls it, and answers
    Ctrl-C."""
    use_utf8()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    words = [_dashed_file_as_path(word) for word in arguments if word != "--debug"]
    words = [part for word in words for part in _flag_and_value(word)]
    for flag, variable in OF_EVERY_VERB.items():
        # In training, the rate is a setting of the run.
        own = flag == "--frame-rate" and words[:1] in (["train"], ["tune"])
        if flag in words[:-1] and not own:
            place = words.index(flag)
            os.environ[variable] = words[place + 1]
            del words[place : place + 2]
    options = build_parser(words).parse_args(words)
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("actionrec").setLevel(logging.INFO)
    try:
        cache_size()
        frame_rate()
        return run(options)
    except ActionrecError as error:
        if debug:
            raise
        complain(str(error))
        return error.exit_code
    except BrokenPipeError:
        # The reader of stdout, such as `head`, has closed it; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if debug:
            raise
        # Of libraries, such as requests, it may hold a message alone.
        reason = error.strerror or reason_of(error)
        if error.errno == errno.ENOSPC and error.filename is None:
            complain(f"The output could not be written: {reason}; make room and try again.")
        else:
            complain(f"{error.filename or 'A file'} could not be used: {reason}.")
        return 1
