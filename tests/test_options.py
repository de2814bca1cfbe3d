"""Options: scales, sizes, ranges, one-line errors, the generated documentation, and --help without heavy imports."""

import math
import re
import subprocess
import sys
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import pytest

from upscaling.cli.arguments import Query, flag, parse_arguments, with_options_table
from upscaling.common.errors import InputError
from upscaling.common.notation import (
    FrameRange,
    Scale,
    TimeRange,
    parse_bytes,
    parse_frames,
    parse_rate,
    parse_scale,
    parse_time,
)
from upscaling.encode.codecs import ENCODERS, find_encoder
from upscaling.job.options import Options, declared, make_options

ROOT = Path(__file__).parent.parent


def test_scale_is_exact():
    assert parse_scale("1.1").factor == Fraction(11, 10)


@pytest.mark.parametrize(
    "text", ["0", "0.5", "9", "8.01", "-2", "two", "", "nan", "inf", "1e1", "0x0", "x", "x0", "1/0", "²"]
)
def test_wrong_scale(text):
    with pytest.raises(InputError, match="SCALE"):
        parse_scale(text)


@pytest.mark.parametrize(
    ("text", "count"), [("500M", 500 << 20), ("2g", 2 << 30), ("1.5K", 1536), ("7", 7), ("1GiB", 1 << 30)]
)
def test_bytes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.mp4"],
        ["a.mp4", "b.mp4", "nine"],
        ["a.mp4", "b.mp4", "2", "--workers", "0"],
        ["a.mp4", "b.mp4", "2", "--workers", "65"],
        ["a.mp4", "b.mp4", "2", "--workers", "x"],
        ["a.mp4", "b.mp4", "2", "--batch-size", "0"],
        ["a.mp4", "b.mp4", "2", "--patch-size", "7"],
        ["a.mp4", "b.mp4", "2", "--crf", "99"],
        ["a.mp4", "b.mp4", "2", "--strength", "2"],
        ["a.mp4", "b.mp4", "2", "--strength", "nan"],
        ["a.mp4", "b.mp4", "2", "--work-space", "much"],
        ["a.mp4", "b.mp4", "2", "--device"],
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("upscale: error: ") and said.count("\n") == 1


def test_wrong_option_gets_the_nearest_right_one(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["a.mp4", "b.mp4", "2", "--modle", "x"])
    assert "did you mean --model?" in capsys.readouterr().err


def test_patch_size_0_is_whole_frames():
    assert parse_arguments(["a", "b", "2", "--patch-size", "0"]).patch_size == 0


def test_help_imports_nothing_heavy():
    code = (
        "import sys, runpy; sys.argv = ['upscale.py', '--help']\n"
        "try: runpy.run_path('upscale.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'cv2', 'av', 'numpy', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--patch-size" in done.stdout and "(default: 6)" in done.stdout


@pytest.mark.parametrize(
    ("text", "found"),
    [("10:20", (10, 20)), ("10:", (10, None)), (":20", (1, 20)), ("7", (7, 7)), ("3:3", (3, 3))],
)
def test_frames(text, found):
    assert parse_frames(text) == FrameRange(*found)


@pytest.mark.parametrize("text", ["0:3", "5:4", ":", "", "1-2", "a:b", "1:2:3", "-1:2"])
def test_wrong_frames(text):
    with pytest.raises(InputError, match="range of frames"):
        parse_frames(text)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("00:10-00:20", 10, 20),
        ("90-", 90, None),
        ("0-1:02:03.5", 0, Fraction(7447, 2)),
        ("0.1-0.2", Fraction(1, 10), Fraction(1, 5)),
    ],
)
def test_time(text, start, end):
    assert parse_time(text) == TimeRange(Fraction(start), end if end is None else Fraction(end))


@pytest.mark.parametrize("text", ["10", "", "-", "20-10", "5-5", "a-b", "1:2:3:4-", "1e3-"])
def test_wrong_time(text):
    with pytest.raises(InputError, match="00:10-00:20"):
        parse_time(text)


@pytest.mark.parametrize(("text", "rate"), [("25", 25), ("30000/1001", Fraction(30000, 1001)), ("0.5", Fraction(1, 2))])
def test_rate(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("scale", "factor"), [(4 / 3, Fraction(4, 3)), (Fraction(4, 3), Fraction(4, 3)), (1.1, Fraction(11, 10)),
                          (2, 2), (2.0, 2), ("1.5", Fraction(3, 2)), (7.123456, Fraction(7123456, 1000000))],
)  # fmt: skip
def test_scale_from_python(scale, factor):
    assert make_options(input="a.mp4", output="b.mp4", scale=scale).scale == Scale(factor)


@pytest.mark.parametrize(
    ("rate", "exact"), [(30000 / 1001, Fraction(30000, 1001)), (Fraction(24000, 1001), Fraction(24000, 1001)),
                        (23.976, Fraction("23.976")), (24, 24), (1 / 3, Fraction(1, 3))],
)  # fmt: skip
def test_frame_rate_from_python(rate, exact):
    assert make_options(input="a.mp4", output="b.mp4", frame_rate=rate).frame_rate == exact


@pytest.mark.parametrize(
    "values", [{"scale": 9.5}, {"scale": 0.99}, {"scale": math.inf}, {"scale": math.nan}, {"frame_rate": 1001.0},
               {"frame_rate": 0}, {"frame_rate": -math.inf}],
)  # fmt: skip
def test_wrong_numbers_from_python(values):
    with pytest.raises(InputError, match=rf"{next(iter(values))}: invalid value"):
        make_options(input="a.mp4", output="b.mp4", **values)


@pytest.mark.parametrize("text", ["2", "3/2", "1920x1080", "x1080", "1280x"])
def test_a_scale_is_written_as_it_is_read(text):
    assert str(parse_scale(text)) == text


@pytest.mark.parametrize("text", ["0", "-1", "1e3", "2000", "24/0", "nan", ""])
def test_wrong_rate(text):
    with pytest.raises(InputError, match="frame rate"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["--modle", "x"], "--model"),
        (["--batch_size", "4"], "--batch-size"),
        (["--restrat"], "--restart"),
        (["--precision", "fp61"], "fp16"),
        (["--progress", "jsn"], "json"),
        (["--container", "mkw"], "mkv"),
    ],
)
def test_nearest_right_word(arguments, near, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["a.mp4", "b.mp4", "2", *arguments])
    assert f"did you mean {near}?" in capsys.readouterr().err


def test_nearest_codec():
    with pytest.raises(InputError, match=r"did you mean libx265\?"):
        find_encoder("libx256")


def test_defaults_of_the_command_are_those_of_the_options():
    assert parse_arguments(["a", "b", "2"]) == Options(Path("a"), Path("b"))


def test_the_documented_table_is_the_generated_one():
    usage = (ROOT / "docs" / "USAGE.md").read_text(encoding="utf-8")
    assert with_options_table(usage) == usage, "run python -m upscaling.cli.arguments"


def test_help_says_every_option_and_works_in_any_encoding():
    done = subprocess.run(
        [sys.executable, str(ROOT / "upscale.py"), "--help"], capture_output=True, check=False,
        env={"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for one in (*fields(Options), *fields(Query)):
        written = {"input": "INPUT", "output": "OUTPUT", "scale": "SCALE", "verbosity": "--quiet"}
        hidden = one.metadata["option"].hidden
        assert hidden or written.get(one.name, flag(one.name)) in done.stdout.decode("ascii")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--status", "a.work", "--list-models"], "choose --status or --list-models"),
        (["--watch"], "--watch requires --status OUTPUT"),
        (["a.mp4", "b.mp4", "2", "--json"], "--json requires --status OUTPUT"),
        (["a.mp4", "b.mp4", "--list-models"], "--list-models takes no INPUT"),
        (["a.mp4"], "missing OUTPUT"),
        (["a.mp4", "b.mp4", "3", "--scale", "2"], "SCALE is given twice"),
        ([], "missing INPUT and OUTPUT"),
        (
            ["a.mp4", "b.mp4", "--deinterlace", "fast"],
            "--deinterlace: invalid value 'fast' (choose from auto, on, off)",
        ),
        (["a.mp4", "b.mp4", "--crff", "2"], "unrecognized option --crff; did you mean --crf?"),
    ],
)
def test_wrong_usage_says_what_to_do(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments)
    assert ended.value.code == 2 and says in capsys.readouterr().err


def test_other_commands_need_no_input():
    assert parse_arguments(["--status", "a.work", "--watch", "--json"]) == Query(Path("a.work"), True, True)
    assert parse_arguments(["--list-models"]).command == "--list-models"
    assert parse_arguments(["--fetch-model", "x"]).fetch_model == "x"


def test_the_help_names_every_encoder():
    help_text = declared(Options)["codec"].help
    assert set(re.findall(r"\b(?:lib[\w-]+|\w+_(?:ks|nvenc)|ffv1)\b", help_text)) == set(ENCODERS)


@pytest.mark.parametrize(
    "arguments",
    [
        "in.mp4 --crf 20 out.mp4 3",
        "--crf 20 in.mp4 out.mp4 3",
        "in.mp4 out.mp4 3 --crf 20",
        "in.mp4 out.mp4 --crf 20 3",
        "--crf 20 -- in.mp4 out.mp4 3",
        "--crf 20 --scale 3 in.mp4 out.mp4",
        "in.mp4 out.mp4 --scale=3x --crf 20",
    ],
)
def test_options_stand_anywhere(arguments):
    options = parse_arguments(arguments.split())
    assert (options.input, options.output, options.crf) == (Path("in.mp4"), Path("out.mp4"), 20)
    assert options.scale == parse_scale("3")


def test_names_that_begin_with_a_dash():
    options = parse_arguments(["--crf", "20", "--", "-in.mp4", "--out.mp4", "3"])
    assert (options.input, options.output) == (Path("-in.mp4"), Path("--out.mp4"))
