"""The command line, built from the options' declarations; a wrong option gets one line with the nearest right one.

`python -m upscaling.cli.arguments` writes the table of options into docs/USAGE.md. Imports nothing heavy, so that
--help is instant.
"""
# ruff: noqa: RUF009 - value and switch are dataclasses.field with metadata

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from upscaling.cli.positionals import assign, assign_preview
from upscaling.common.errors import InputError
from upscaling.common.text import did_you_mean, one_line
from upscaling.job.options import FILES, LOGGING, Option, Options, declared, switch, value
from upscaling.terminal.signals import invocation

QUERIES = "other commands"
POSITIONAL = ("input", "output", "scale")
EPILOG = """\
Progress goes to stderr; with --progress json one object per line goes to stdout.
Exit status: 0 done; 1 the job failed, rerun to resume (a folder: some file failed); 2 bad usage or input,
nothing was touched; 75 another run holds this job; 129, 130, 143 stopped by SIGHUP, SIGINT, SIGTERM.
"""


@dataclass(frozen=True)
class Query:
    """What the command is asked for instead of a run; at most one of its commands is set."""

    status: Path | None = value(
        None,
        "OUTPUT",
        QUERIES,
        "show the progress and the workers of the run that makes OUTPUT; with --work-dir name its OUTPUT.work",
        Path,
        keyword=False,
    )
    watch: bool = switch(QUERIES, "with --status: update every second until the run ends", keyword=False)
    json: bool = switch(QUERIES, "with --status: print one JSON object per update", keyword=False)
    list_models: bool = switch(QUERIES, "list the models and the files they are loaded from", keyword=False)
    list_devices: bool = switch(QUERIES, "list the devices of this machine and the engine of each", keyword=False)
    fetch_model: str | None = value(
        None, "NAME", QUERIES, "download a model, or verify the downloaded file", keyword=False
    )

    @property
    def command(self) -> str | None:
        """The flag that asks for something other than a run; None if no flag does."""
        given = [name for name in ("status", "list_models", "list_devices", "fetch_model") if getattr(self, name)]
        if len(given) > 1:
            raise InputError(f"choose {flag(given[0])} or {flag(given[1])}, not both")
        for name in ("watch", "json"):
            if getattr(self, name) and given != ["status"]:
                raise InputError(f"{flag(name)} requires --status OUTPUT")
        return flag(given[0]) if given else None


def flag(name: str) -> str:
    """`--batch-size` for the field `batch_size`."""
    return "--" + name.replace("_", "-")


def program() -> str:
    """How the command was started, without directories: `upscale`, `python -m upscaling` or `python upscale.py`."""
    words = invocation()
    names = [os.path.basename(word) for word in words]
    return shlex.join(["python", *names[1:]] if len(words) > 1 else names)


class Parser(argparse.ArgumentParser):
    """Ends with exit status 2 and one line on stderr; a wrong option is told the nearest right one."""

    @property
    def options(self) -> list[str]:
        """All flags."""
        return [name for action in self._actions for name in action.option_strings]

    def error(self, message: str) -> NoReturn:
        if match := re.match(r"unrecognized arguments: (--?[\w-]+)", message):
            near = did_you_mean(match[1].replace("_", "-"), self.options) or " (--help lists the options)"
            message = f"unrecognized option {match[1]}{near}"
        self.exit(2, f"upscale: error: {one_line(message.removeprefix('argument '))}\n")


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=100)

    def _fill_text(self, text, width, indent):
        return text if "\n" in text else super()._fill_text(text, width, indent)  # the epilog's lines as they are


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from upscaling.common.versions import report

        print(report())
        parser.exit(0)


def build_parser() -> Parser:
    """The parser of the command."""
    parser = Parser(
        prog=program(),
        usage="%(prog)s INPUT OUTPUT [SCALE] [options]\n       %(prog)s INPUT... --into FOLDER [SCALE] [options]\n"
        "       %(prog)s INPUT --preview SHEET.png [SCALE] [options]",
        description="Upscale videos and pictures with Real-ESRGAN on this machine.",
        epilog=EPILOG,
        formatter_class=_Help,
        allow_abbrev=False,
        add_help=False,
    )
    groups: dict[str, Any] = {}
    for options_class in (Options, Query):
        defaults = {one.name: one.default for one in fields(options_class)}
        for name, option in declared(options_class).items():
            if option.group not in groups:
                groups[option.group] = parser.add_argument_group(option.group)
            if name == "verbosity" or option.hidden:
                continue
            _add(groups[option.group], name, option, defaults[name])
    groups[FILES].add_argument("more", nargs="*", help=argparse.SUPPRESS)
    # SCALE is positional, but other upscalers have an option for it.
    groups[FILES].add_argument("--scale", dest="scale_option", type=_type(declared(Options)["scale"]),
                               help=argparse.SUPPRESS)  # fmt: skip
    groups[LOGGING].add_argument("-v", "--verbose", dest="verbosity", action="count", default=0, help="more messages")
    groups[LOGGING].add_argument("-q", "--quiet", action="store_true", help="errors, and what is lost, only")
    groups[QUERIES].add_argument("-h", "--help", action="help", help="show this help and exit")
    groups[QUERIES].add_argument("--version", action=_Version, nargs=0, dest=argparse.SUPPRESS,
                                 help="show the versions to state in a bug report, and exit")  # fmt: skip
    return parser


def _add(group, name: str, option: Option, default: Any) -> None:
    text = help_text(option, default).replace("%", "%%")
    if option.metavar is None:
        group.add_argument(flag(name), action="store_true", help=text)
    elif name in POSITIONAL:  # what a word is depends on the others: see positionals.py
        group.add_argument(name, metavar=option.metavar, nargs="?", help=text)
    else:
        action, default = ("append", []) if option.repeated else ("store", default)
        group.add_argument(
            flag(name), metavar=option.metavar, type=_type(option), action=action, default=default, help=text
        )


def help_text(option: Option, default: Any) -> str:
    """The option's help, with its default if it has one that says something."""
    shown = option.default_text or (default if default not in (None, False, MISSING, ()) else "")
    return f"{option.help} (default: {shown})" if shown else option.help


def _type(option: Option) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        try:
            return option.parse(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _joined(argv: Sequence[str]) -> list[str]:
    """`--sbatch --partition=gpu` as one word: argparse would take the value for an option."""
    words = list(argv)
    if "--sbatch" in words[:-1]:
        at = words.index("--sbatch")
        words[at : at + 2] = [f"--sbatch={words[at + 1]}"]
    return words


def parse_arguments(argv: Sequence[str] | None = None) -> Options | Query:
    """What a command line asks for; exits with status 2 and one line if it is wrong."""
    parser = build_parser()
    words = _joined(sys.argv[1:] if argv is None else argv)
    # SCALE may follow options; but the intermixed parser takes words after "--" for options if they begin with a dash.
    parse = parser.parse_args if "--" in words else parser.parse_intermixed_args
    given = vars(parse(words))
    positional = [word for word in (*(given.pop(name) for name in POSITIONAL), *given.pop("more")) if word is not None]
    scale = given.pop("scale_option")
    if given.pop("quiet"):
        given["verbosity"] = -1
    query = Query(**{name: given.pop(name) for name in declared(Query)})
    try:
        if command := query.command:
            if positional:
                parser.error(f"{command} takes no INPUT and OUTPUT")
            return query
        if misplaced := next((word for word in positional if word in parser.options), None):
            parser.error(f"{misplaced} is after --, where only file names may be; put it before")
        if (sheet := given["preview"]) is not None:
            found = assign_preview(positional, sheet, scale)
        else:
            found = assign(positional, given["into"], scale)
    except InputError as error:
        text = str(error)
        usage = f" ({program()} --help shows the usage)" if text.startswith("missing ") else ""
        parser.error(("argument SCALE: " if text.startswith("invalid value") else "") + text + usage)
    given |= {
        name: tuple(given[name]) for name, option in declared(Options).items() if name in given and option.repeated
    }
    given |= {name: value for name, value in vars(found).items() if value is not None}
    return Options(**given)


# The table of options in docs/USAGE.md

TABLE_START = "<!-- Generated by `python -m upscaling.cli.arguments`; edit upscaling/job/options.py instead. -->\n"
TABLE_END = "<!-- End of the generated table. -->\n"


def options_table() -> str:
    """Every option with its Python keyword, as Markdown: one table per group."""
    groups: dict[str, list[str]] = {}
    for one in (*fields(Options), *fields(Query)):
        option = one.metadata["option"]
        if option.hidden:
            continue
        keyword = f"`{'source' if one.name == 'input' else one.name}`" if option.keyword else ""
        row = f"`{_usage(one.name, option)}` | {keyword} | {help_text(option, one.default)}"
        groups.setdefault(option.group, []).append("| " + row.replace("NAME|FILE", r"NAME\|FILE") + " |")
    heads = {group: f"| {group} | Python | |\n|---|---|---|" for group in groups}
    return "\n\n".join("\n".join([heads[group], *rows]) for group, rows in groups.items()) + "\n"


def _usage(name: str, option: Option) -> str:
    if name == "verbosity":
        return "-v, -q"
    words = [] if name in POSITIONAL else [flag(name)]
    return " ".join([*words, option.metavar] if option.metavar else words)


def with_options_table(text: str) -> str:
    """A document with the generated table put between its two markers."""
    before, _, rest = text.partition(TABLE_START)
    _, _, after = rest.partition(TABLE_END)
    return f"{before}{TABLE_START}\n{options_table()}\n{TABLE_END}{after}"


if __name__ == "__main__":
    usage = Path(__file__).parents[2] / "docs" / "USAGE.md"
    usage.write_text(with_options_table(usage.read_text(encoding="utf-8")), encoding="utf-8")
