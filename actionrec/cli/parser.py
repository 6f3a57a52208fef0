"""Parsers and help texts of the command line.

The flags of a verb are the signature of its function, its help is the docstring; the settings of a
training run are the fields of `TrainConfig`.
"""

import inspect
import sys
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, get_args

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter

from actionrec.config import TrainConfig, read_yaml, type_sentence
from actionrec.errors import UsageError
from actionrec.text import visible


def complain(message: str) -> None:
    """Print a problem on stderr."""
    print(f"actionrec: {visible(message)}", file=sys.stderr, flush=True)


class Parser(ArgumentParser):
    """Spells a setting named batch_size --batch-size, accepts both, and reports wrong usage in one
    sentence."""

    def add_argument(self, *names: Any, **options: Any) -> Any:
        dashed = [n.replace("_", "-") for n in names if isinstance(n, str) and n.startswith("--")]
        return super().add_argument(*dict.fromkeys([*dashed, *names]), **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        verb = parser.prog.replace(" [options]", "")
        complain(f"{type_sentence(message)} (`{verb} --help` lists the choices)")
        self.exit(2)


BOOLEAN = {bool: ("true", "false")}


class HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the line ends of descriptions, so that examples can be copied; leaves out Python's
    types, empty defaults, second spellings, and from the usage line all flags but required ones."""

    def _format_usage(
        self, usage: str | None, actions: Iterable[Action], groups: Any, prefix: str | None
    ) -> str:
        words = [self._prog.replace(" [options]", ""), "[options]"]
        for action in actions:
            if not action.option_strings:
                words.append(self._format_args(action, action.dest))
            elif action.required:
                words.append(f"{action.option_strings[0]} {action.dest.upper()}")
        return f"{'usage: ' if prefix is None else prefix}{' '.join(words)}\n\n"

    def _format_action_invocation(self, action: Action) -> str:
        action = copy(action)
        action.option_strings = [name for name in action.option_strings if "_" not in name]
        # jsonargparse names the choices of a setting only if it can't be left open.
        given, *rest = get_args(getattr(action, "_typehint", None)) or (None,)
        if rest == [type(None)] and (choices := get_args(given) or BOOLEAN.get(given)):
            action.metavar = f"{{{','.join(choices)}}}"
        return super()._format_action_invocation(action)

    def _get_help_string(self, action: Action) -> str:
        if "--print-config" in action.option_strings:
            return "Print the complete settings as YAML and exit."
        text = super()._get_help_string(action)
        for type_of_value in ("type: %(type)s, ", ", type: %(type)s", " (type: %(type)s)"):
            text = text.replace(type_of_value, "")
        if not action.option_strings:
            text = text.removesuffix("(required)").rstrip()
        is_switch = action.nargs == 0
        if is_switch or action.default in (None, []):
            text = text.removesuffix(" (default: %(default)s)")
        return text


class ConfigFile(ActionConfigFile):
    """Accepts a path or the name of a shipped configuration."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
        shipped = configs_folder() / str(value)
        if not Path(value).exists() and shipped.is_file():
            value = str(shipped)
        if Path(value).is_file():
            try:
                read_yaml(Path(value))
            except UsageError as error:
                parser.error(str(error))
        super().__call__(parser, namespace, value, option)


def configs_folder() -> Path:
    """The shipped YAML files: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def verb_parser(
    function: Callable[..., int], *positional: str, **special: dict[str, Any]
) -> Parser:
    """The parser of a verb.

    Args:
        function: The verb. Arguments that its docstring leaves out are described in `SHARED`, or
            are settings of a training run too.
        positional: Names of the arguments without a flag.
        special: Options of argparse, such as `nargs`, for arguments whose type is not enough.
    """
    parser = Parser(description=description(function), print_config="--print-config")
    helps = argument_helps(TrainConfig) | SHARED | argument_helps(function)
    for name in positional:
        parser.add_argument(name, help=helps[name], **special.get(name, {}))
    for name, options in special.items():
        if name not in positional:
            parser.add_argument(f"--{name}", help=helps[name], **options)
    parser.add_function_arguments(function, as_group=False, skip={*positional, *special})
    for action in parser._actions:
        action.help = action.help or helps.get(action.dest)
    return parser


# Arguments of several verbs.
SHARED = {
    "root": "Folder of the data set, or the CSV file.",
    "model": "Model file, run's folder, or a name from `actionrec weights list`.",
    "topk": "Number of best classes in the output.",
    "precision": "Number format of the network: float32, bfloat16, or auto: bfloat16 on hardware "
    "that supports it.",
    "engine": "What computes the network; auto: the fastest installed.",
    "timeout": "Longest time for one video, in seconds.",
    "memory": "Most memory for one video, in MiB.",
    "format": "Format of the output.",
}


def train_settings_parser(function: Callable[..., int], **positional: dict[str, Any]) -> Parser:
    """The parser of a verb that takes the settings of a training run, from flags or a file."""
    parser = Parser(description=description(function), print_config="--print-config")
    for name, options in positional.items():
        parser.add_argument(name, **options)
    parser.add_argument(
        "--config",
        action=ConfigFile,
        help="YAML file with any of these settings; flags override it.",
    )
    parser.add_class_arguments(TrainConfig, as_group=False, skip={"stages", "crop_area"})
    helps = argument_helps(TrainConfig)
    parser.add_argument("--stages", help=helps["stages"], **STAGES)
    parser.add_argument("--crop_area", help=helps["crop_area"], **CROP_AREA)
    group_by_topic(parser)
    return parser


def group_by_topic(parser: Parser) -> None:
    """Show the settings of a training run under the headings of `TOPICS`, in their order."""
    flat = parser._optionals._group_actions
    options = {action.dest: action for action in flat}
    for setting in fields(TrainConfig):
        if setting.name in TOPICS:
            topic = parser.add_argument_group(TOPICS[setting.name])
        flat.remove(options[setting.name])
        topic._group_actions.append(options[setting.name])


# The first setting of each topic.
TOPICS = {
    "dataset": "data",
    "backbone": "network and nonlocal blocks",
    "clip_length": "clips",
    "crop_area": "augmentation",
    "class_weights": "unbalanced classes",
    "train_from": "optimisation",
    "precision": "hardware",
    "seed": "run",
}
# A list in a signature would be --stages=[3,4] instead of --stages 3 4.
STAGES = {"nargs": "+", "type": int, "default": [4]}
CROP_AREA = {"nargs": 2, "type": float, "default": None, "metavar": ("LEAST", "MOST")}


def description(function: Callable[..., int]) -> str:
    """The docstring of a verb up to its arguments."""
    return inspect.getdoc(function).partition("\n\nArgs:")[0]


def summary(function: Callable[..., int]) -> str:
    """The first line of a verb's docstring."""
    return inspect.getdoc(function).splitlines()[0]


@cache
def argument_helps(function: Callable[..., Any]) -> dict[str, str]:
    """The descriptions of the arguments in a docstring, by name."""
    from docstring_parser import parse

    return {
        param.arg_name: " ".join(param.description.split())
        for param in parse(inspect.getdoc(function)).params
    }
