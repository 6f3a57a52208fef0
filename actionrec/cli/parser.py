"""How the command line reads flags and prints help: a function a verb, a data class a config."""

import inspect
import sys
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter

from actionrec.config import TrainConfig, type_sentence


def complain(message: str) -> None:
    """Tell the user of a problem, on stderr."""
    print(f"actionrec: {message}", file=sys.stderr, flush=True)


class Parser(ArgumentParser):
    """Offers --batch-size for a setting named batch_size, and takes either; says what is wrong
    in one sentence, without the page of usage."""

    def add_argument(self, *names: Any, **options: Any) -> Any:
        dashed = [n.replace("_", "-") for n in names if isinstance(n, str) and n.startswith("--")]
        return super().add_argument(*dict.fromkeys([*dashed, *names]), **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        verb = parser.prog.replace(" [options]", "")
        complain(f"{type_sentence(message)} (`{verb} --help` lists the choices)")
        self.exit(2)


class HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the line ends of descriptions alone, so that examples can be copied; says nothing of
    Python's types, of defaults only those that are something, and each name in one spelling."""

    def _format_action_invocation(self, action: Action) -> str:
        action = copy(action)
        action.option_strings = [name for name in action.option_strings if "_" not in name]
        return super()._format_action_invocation(action)

    def _get_help_string(self, action: Action) -> str:
        text = super()._get_help_string(action)
        for type_of_value in ("type: %(type)s, ", ", type: %(type)s", " (type: %(type)s)"):
            text = text.replace(type_of_value, "")
        is_switch = action.nargs == 0
        if is_switch or action.default in (None, []):
            text = text.removesuffix(" (default: %(default)s)")
        return text


class ConfigFile(ActionConfigFile):
    """Takes a path or, where there is no such file, the name of one that we ship."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
        shipped = configs_folder() / str(value)
        if not Path(value).exists() and shipped.is_file():
            value = str(shipped)
        super().__call__(parser, namespace, value, option)


def configs_folder() -> Path:
    """The YAML files that we ship: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def verb_parser(
    function: Callable[..., int], *positional: str, **special: dict[str, Any]
) -> Parser:
    """The parser of a verb: the function's signature is its flags, its docstring its help.

    Args:
        function: The verb; its docstring describes every argument.
        positional: Arguments that are given without a flag.
        special: How argparse reads an argument, where its type does not say all: `nargs` say.
    """
    parser = Parser(description=description(function), print_config="--print-config")
    helps = argument_helps(function)
    for name in positional:
        parser.add_argument(name, help=helps[name], **special.get(name, {}))
    for name in special.keys() - set(positional):
        parser.add_argument(f"--{name}", help=helps[name], **special[name])
    parser.add_function_arguments(function, skip={*positional, *special})
    return parser


def train_settings_parser(function: Callable[..., int], **positional: dict[str, Any]) -> Parser:
    """The parser of a verb that takes the settings of a training run, as flags or as a file."""
    parser = Parser(description=description(function), print_config="--print-config")
    for name, options in positional.items():
        parser.add_argument(name, **options)
    parser.add_argument(
        "--config", action=ConfigFile, help="YAML file with any of these settings; flags win."
    )
    parser.add_class_arguments(TrainConfig, skip={"stages", "crop_area"})
    helps = argument_helps(TrainConfig)
    parser.add_argument("--stages", help=helps["stages"], **STAGES)
    parser.add_argument(
        "--crop_area",
        nargs=2,
        type=float,
        default=None,
        metavar=("LEAST", "MOST"),
        help=helps["crop_area"],
    )
    return parser


# --stages 3 4, which a list in a signature would only take as --stages=[3,4].
STAGES = {"nargs": "+", "type": int, "default": [4]}


def description(function: Callable[..., int]) -> str:
    """The docstring of a verb but for its arguments."""
    return inspect.getdoc(function).partition("\n\nArgs:")[0]


def summary(function: Callable[..., int]) -> str:
    """The first line of a verb's docstring."""
    return inspect.getdoc(function).splitlines()[0]


def argument_helps(function: Callable[..., Any]) -> dict[str, str]:
    """What the section Args of a docstring says of each argument."""
    from docstring_parser import parse

    return {
        param.arg_name: " ".join(param.description.split())
        for param in parse(inspect.getdoc(function)).params
    }
