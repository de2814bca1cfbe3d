"""The page of a run as HTML: one file that loads nothing and runs no script but its own."""

import base64
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template

from upscaling.common.text import clock, many
from upscaling.pipeline.checks import PAGE_MARK
from upscaling.report.card import BADGES, badge, file_card, log_line
from upscaling.report.html import name, tag, text, time_text
from upscaling.report.record import DONE, FAILED, INTERRUPTED, LARGE_FILES, RUNNING, FileRecord, RunRecord

MOST_NAMES = 500  # of files that were passed over for one reason


@cache
def _parts() -> tuple[Template, str, str]:
    """The template of the page, its style sheet and its script."""
    folder = files("upscaling.report")
    html, style, script = (folder.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    return Template(html), style, script


def _sha256(code: str) -> str:
    """The hash of a style sheet or script in a content security policy (CSP level 3, section 2.3.1)."""
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii")


def page(run: RunRecord) -> str:
    """The page as it is now."""
    template, style, script = _parts()
    return template.substitute(
        mark=PAGE_MARK,
        title=text(f"{BADGES[run.status][1]}: {run.name}"),
        style=style,
        script=script,
        style_hash=_sha256(style),
        script_hash=_sha256(script),
        body=_body(run),
    )


def _body(run: RunRecord) -> str:
    cards = {id(file): (f"file-{number}", file) for number, file in enumerate(run.files, 1)}
    failed = [file for file in run.files if file.status == FAILED]
    others = [file for file in run.files if file.status != FAILED]
    shown = [_header(run)]
    if failed and run.is_folder:
        shown.append(tag("h2", text(f"Failed: {many(len(failed), 'file')}"), class_="part"))
    shown += [file_card(run, file, cards[id(file)][0]) for file in failed]
    if run.is_folder:
        shown.append(_overview(list(cards.values())))
    shown += [file_card(run, file, cards[id(file)][0]) for file in others]
    shown += [_passed_over(run), _footer(run)]
    return tag("main", "\n".join(part for part in shown if part), class_="many" if len(run.files) > LARGE_FILES else "")


def _header(run: RunRecord) -> str:
    heading = tag("h1", name(run.name))
    lines = [tag("p", f"{name(run.source)} to {name(run.output)}", class_="quiet")] if run.is_folder else []
    lines += [tag("p", text(line)) for line in _summary(run)]
    if run.status == FAILED and run.message and not run.count(FAILED):  # a failure of no file in particular
        lines.append(tag("div", tag("p", text(run.message)) + log_line(run, None), class_="error"))
    elif run.status == INTERRUPTED:
        lines.append(tag("div", tag("p", text(run.message)), class_="warnings"))
    said = [line for _, line in run.messages.warnings.lines]
    if said:
        items = "".join(tag("li", text(line)) for line in said)
        lines.append(tag("div", tag("h3", "Warnings of this run") + tag("ul", items), class_="warnings"))
    return tag("header", badge(run.status) + heading + "".join(lines), class_=run.status)


def _summary(run: RunRecord) -> list[str]:
    """What has become of the run, in a sentence or two."""
    took = clock(run.seconds)
    if run.is_folder:
        of_all = f"{run.count(DONE)} of {many(run.due, 'file')} done"
        others = [f"{count} {word}" for word in (FAILED, "busy", "waiting", "skipped") if (count := run.count(word))]
        of_all = ", ".join([of_all, *others])
    else:
        file = run.files[0] if run.files else None
        total = f" of {file.total}" if file and file.total and file.status != DONE else ""
        of_all = f"{file.frames}{total} {'frame' if file.frames == 1 else 'frames'} done" if file else "nothing done"
    if run.status == RUNNING:
        return [
            f"Not finished: running since {time_text(run.started)}, {of_all} after {took}.",
            f"This page was written at {time_text(run.written)} and is written again as the run goes on. Reload it. If "
            "it stays the same for minutes, the run has ended without a word, as after a power cut; the same command "
            "resumes it.",
        ]
    ended = f"{'Interrupted' if run.status == INTERRUPTED else 'Ended'} {time_text(run.written)}."
    return [f"{of_all[:1].upper()}{of_all[1:]} in {took}. Started {time_text(run.started)}. {ended}"]


def _overview(cards: Sequence[tuple[str, FileRecord]]) -> str:
    """A table of all files that were due, with links to their cards."""
    if not cards:
        return ""
    rows = []
    for key, file in cards:
        rate = f"{file.rate:.2f}" if file.rate else ""
        seconds = clock(file.seconds) if file.has_job else ""
        rows.append(
            tag("td", tag("a", name(os.path.basename(file.source)), href=f"#{key}"))
            + tag("td", badge(file.status), class_=file.status)
            + tag("td", text(file.frames or ""), class_="number optional")
            + tag("td", text(rate), class_="number optional")
            + tag("td", text(seconds), class_="number")
        )
    names = (("File", ""), ("Result", ""), ("Frames", "number optional"), ("Frames/s", "number optional"),
             ("Time", "number"))  # fmt: skip
    head = tag("tr", "".join(tag("th", word, scope="col", class_=kind) for word, kind in names))
    table = tag("table", tag("thead", head) + tag("tbody", "\n".join(tag("tr", row) for row in rows)))
    return tag("h2", "All files that were due", class_="part") + table


def _passed_over(run: RunRecord) -> str:
    """The files for which there was nothing to do, by reason."""
    lines = []
    for why, sources in run.passed_over.items():
        names = ", ".join(name(source) for source in sources[:MOST_NAMES])
        more = f" and {len(sources) - MOST_NAMES} more" if len(sources) > MOST_NAMES else ""
        count = tag("summary", text(f"{many(len(sources), 'file')}: {why}"))
        lines.append(tag("details", count + tag("p", names + more, class_="quiet")))
    return tag("h2", "Nothing to do", class_="part") + "".join(lines) if lines else ""


def _footer(run: RunRecord) -> str:
    log = f" Log: {name(run.log_file)}." if run.log_file else ""
    pictures = [file.pictures for file in run.files if file.pictures is not None]
    hint = "Before: a plain resize of the input by Lanczos. Pictures are compressed for this page." if pictures else ""
    if len(pictures) > LARGE_FILES:
        hint += f" Those of the newest {LARGE_FILES} files are larger than the others."
    made = text(f"Written {time_text(run.written)}.")
    return tag("footer", tag("p", made + log) + tag("p", hint))
