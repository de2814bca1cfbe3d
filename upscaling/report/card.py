"""What a page says of one file: its pictures with a slider, what was done, what was lost, its speed and workers."""

import os
import re

from upscaling.common.text import clock, many
from upscaling.report.html import byte_text, name, tag, text, time_text, void
from upscaling.report.pictures import SMALL, Pictures
from upscaling.report.plot import rate_plot, share_table
from upscaling.report.record import DONE, FAILED, INTERRUPTED, RUNNING, FileRecord, Lines, RunRecord
from upscaling.terminal.lines import size_text

BADGES = {  # status: a sign, so that no colour is needed to tell them apart, and a word
    DONE: ("✓", "Done"),
    FAILED: ("✗", "Failed"),
    RUNNING: ("…", "Running"),
    INTERRUPTED: ("■", "Interrupted"),
    "busy": ("■", "Busy"),
    "waiting": ("■", "Waiting"),
    "skipped": ("■", "Passed over"),
}


def badge(status: str) -> str:
    """The status of a file or a run."""
    sign, word = BADGES[status]
    return tag("span", tag("span", sign, aria_hidden="true") + " " + word, class_="badge")


def file_card(run: RunRecord, file: FileRecord, key: str) -> str:
    """One file; `key` is the id of its element."""
    title = tag("h2", badge(file.status) + " " + name(os.path.basename(file.source))) if run.is_folder else ""
    paths = tag("p", f"{name(file.source)} to {name(file.output)}", class_="quiet")
    parts = [title, paths, _outcome(run, file), _pictures(file), _facts(file), _warnings(file), _streams(file)]
    if file.has_job:
        speed = tag("h3", "Frame rate") + rate_plot(file.speed, file.restarts, key)
        shares = [one for at, one in enumerate(file.shares) if one.frames or at < file.facts["workers"]]
        workers = tag("h3", "Workers") + share_table(shares) if any(one.frames for one in shares) else ""
        shown = speed + workers
        parts.append(tag("details", tag("summary", "Frame rate and workers") + shown) if run.is_folder else shown)
    parts.append(_messages(file.messages.notes))
    return tag("article", "\n".join(part for part in parts if part), id=key, class_=f"file {file.status}")


def _outcome(run: RunRecord, file: FileRecord) -> str:
    if file.status == FAILED:
        return tag("div", tag("p", text(file.message)) + log_line(run, file), class_="error")
    if file.status == INTERRUPTED:
        kept = f"Interrupted after {file.frames} frames; the same command goes on with what is finished of them."
        return tag("p", text(kept))
    return tag("p", text(file.message)) if file.message else ""


def log_line(run: RunRecord, file: FileRecord | None) -> str:
    """Where more is said about a failure."""
    logs = [f"Log: {name(run.log_file)}."] if run.log_file else []
    message = file.message if file else run.message
    if match := re.search(r"workers' logs: (.*?)\)?$", message):
        logs.append(f"Workers' logs: {name(match[1])}.")
    return tag("p", " ".join(logs) or "No log was kept: --log-file FILE keeps one.")


def _pictures(file: FileRecord) -> str:
    found = file.pictures
    if found is None:
        return tag("p", text(file.no_pictures), class_="quiet") if file.no_pictures else ""
    stage = _half("before", found.before, found) + _half("after", found.after, found) + tag("div", class_="handle")
    label = "How much of the picture is before"
    slider = void("input", type="range", min=0, max=100, value=50, step=1, aria_label=label)
    hint = tag("span", " Drag the line, or move the slider with the arrow keys.", class_="control")
    size = "tall" if found.height > found.width else "small" if found.width <= SMALL[0] else ""
    kinds = [size, "clear" if found.alpha else ""]
    content = (
        tag("div", stage, class_="stage")
        + tag("div", slider, class_="control")
        + tag("figcaption", text(_caption(found)) + hint, class_="quiet")
        + _overview(found)
    )
    return tag("figure", content, class_=" ".join(["pair", *filter(None, kinds)]))


def _half(kind: str, uri: str, found: Pictures) -> str:
    image = void(
        "img", src=uri, width=found.width, height=found.height, alt=f"The frame {kind}", draggable="false"
    )  # fmt: skip
    return tag("div", image + tag("span", kind, class_="tag"), class_=kind)


def _overview(found: Pictures) -> str:
    if not found.overview:
        return ""
    width, height = found.overview_size
    alt = "The whole picture, with a frame around the part that is shown above"
    image = void("img", src=found.overview, width=width, height=height, alt=alt)
    return tag("details", tag("summary", "Where that is in the whole picture") + image, class_="overview")


def _caption(found: Pictures) -> str:
    whole = f"{found.whole[0]}×{found.whole[1]}"
    shown = f"{found.part[0]}×{found.part[1]} pixels of {whole}" if found.is_part else f"all of it: {whole} pixels"
    return f"Frame {found.number}, {shown}{', ' + found.note if found.note else ''}."


def _facts(file: FileRecord) -> str:
    if not file.has_job:
        return ""
    facts = file.facts
    workers = f"{many(facts['workers'], 'worker')} with {facts['engine']} ({facts['engine_reason']})"
    frames = [many(file.frames, "frame")]
    if file.status != DONE and file.total:
        frames = [f"{file.frames} of {file.total}"]
    if file.resumed:
        frames.append(f"{file.resumed} of them by an earlier run")
    if file.repeated:
        frames.append(f"{file.repeated} equal to the one before")
    rate = f"{file.rate:.2f} frames/s" if file.rate else "not measured"
    size = byte_text(file.input_bytes) if file.input_bytes is not None else "unknown"
    after = f" to {byte_text(file.output_bytes)}" if file.output_bytes is not None else ""
    rows = [
        ("Size", f"{facts['input_size']} to {size_text(facts)}"),
        ("Model", facts["model"]),
        ("Device", f"{facts['device']}, {workers}"),
        ("Frames", ", ".join(frames)),
        ("Speed", rate + (", without those of the earlier run" if file.resumed and file.rate else "")),
        ("Time", f"{clock(file.seconds)}, started {time_text(file.started)}"),
        ("File size", size + after),
        *((what.capitalize(), words) for what, words in file.details),
    ]
    return tag("dl", "".join(tag("div", tag("dt", text(what)) + tag("dd", text(words))) for what, words in rows))


def _warnings(file: FileRecord) -> str:
    lines = file.messages.warnings
    if not lines.lines:
        return ""
    title = tag("h3", "Converted, left out, or to be looked at")
    return tag("div", title + _list(lines, with_times=False), class_="warnings")


def _streams(file: FileRecord) -> str:
    if not file.streams:
        return ""
    title = tag("h3", "What became of the input's streams")
    return title + tag("ul", "".join(tag("li", text(line)) for line in file.streams))


def _messages(lines: Lines) -> str:
    if not lines.lines:
        return ""
    return tag("details", tag("summary", "Messages") + _list(lines, with_times=True))


def _list(lines: Lines, with_times: bool) -> str:
    items = [tag("li", text(f"{time_text(when)}: {line}" if with_times else line)) for when, line in lines.lines]
    if lines.left_out:
        items.append(tag("li", text(f"and {lines.left_out} more, which the log has")))
    return tag("ul", "".join(items))
