"""The plots of a page: frames/s over time with restarts as SVG, and the workers' shares as a table with bars."""

import math
from collections.abc import Sequence

from upscaling.common.text import clock, many
from upscaling.report.html import tag, text
from upscaling.report.speed import MOST_RESTARTS, Share, Speed, percentages

WIDTH, HEIGHT = 600, 160  # units of the drawing, which is stretched to the page; the labels are beside it
MOST_TIMES = 12  # of restarts in a sentence


def rate_plot(speed: Speed, restarts: int, key: str) -> str:
    """The frame rate over time; a sentence if the run was too short for one. `key` is unique in the page."""
    rates, length = speed.rates(), speed.seconds[-1]
    sentence = _restart_sentence(speed, restarts)
    if not rates:
        return tag("p", text(f"The run was too short for a plot of its frame rate. {sentence}"), class_="quiet")
    top = _round_up(max(rates))
    heights = [HEIGHT * (1 - rate / top) for rate in rates]
    step = WIDTH / len(rates)
    line = " ".join(f"{at * step:.1f},{y:.1f} {(at + 1) * step:.1f},{y:.1f}" for at, y in enumerate(heights))
    marks = [WIDTH * min(1, seconds / length) for seconds in speed.restarts]
    described = (
        f"From {min(rates):.3g} to {max(rates):.3g} frames/s in stretches of {length / len(rates):.3g} s, "
        f"{speed.frames[-1] / length:.3g} as a mean since the start. {sentence}"
    )
    drawing = [
        tag("title", "Frames/s over time", id=f"{key}-title"),
        tag("desc", text(described), id=f"{key}-text"),
        *(_line(0, y, WIDTH, y, "grid") for y in (0, HEIGHT / 2, HEIGHT)),
        tag("polygon", points=f"0,{HEIGHT} {line} {WIDTH},{HEIGHT}", class_="area"),
        tag("polyline", points=line, class_="rate"),
        *(_line(x, 0, x, HEIGHT, "restart") for x in marks),
    ]
    svg = tag(
        "svg", "".join(drawing), viewBox=f"0 0 {WIDTH} {HEIGHT}", preserveAspectRatio="none", role="img",
        aria_labelledby=f"{key}-title {key}-text",
    )  # fmt: skip
    values = tag("div", "".join(tag("span", f"{value:g}") for value in (top, top / 2, 0)), class_="values")
    times = "".join(tag("span", clock(length * part)) for part in (0, 0.5, 1))
    legend = tag("span", "", class_="swatch") + "a restart of a worker. " if marks else ""
    caption = tag("figcaption", "Frames/s over time. " + legend + text(described))
    return tag("figure", values + svg + tag("div", times, class_="times") + caption, class_="plot")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return tag("line", x1=f"{x1:g}", y1=f"{y1:g}", x2=f"{x2:g}", y2=f"{y2:g}", class_=kind)


def _round_up(rate: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50, …"""
    unit = 10.0 ** math.floor(math.log10(max(rate, 1e-6)))
    return next(unit * step for step in (1, 2, 5, 10) if unit * step >= rate * 0.999)


def _restart_sentence(speed: Speed, restarts: int) -> str:
    if not restarts:
        return "No worker was restarted."
    times = ", ".join(clock(seconds) for seconds in speed.restarts[:MOST_TIMES])
    more = ", and later" if restarts > min(MOST_TIMES, MOST_RESTARTS) else ""
    return f"{many(restarts, 'restart')} of workers: after {times}{more}."


def share_table(shares: Sequence[Share]) -> str:
    """What each worker has done, with a bar."""
    longest = max((share.frames for share in shares), default=0)
    rows = []
    for number, (share, percent) in enumerate(zip(shares, percentages(shares), strict=True)):
        width = 100 * share.frames / longest if longest else 0
        bar = tag(
            "svg", tag("rect", width=f"{width:.1f}", height=10), viewBox="0 0 100 10",
            preserveAspectRatio="none", aria_hidden="true",
        )  # fmt: skip
        done = f"{many(share.frames, 'frame')} ({percent:.0f} %)"
        restarts = many(share.restarts, "restart") if share.restarts else ""
        rows.append(
            tag("th", text(f"worker {number}") + " " + tag("small", text(share.device)), scope="row")
            + tag("td", bar, class_="bar")
            + tag("td", text(done) + " " + tag("small", text(restarts)))
        )
    head = "".join(tag("th", word, scope="col") for word in ("Worker", "Share", "Frames"))
    body = "".join(tag("tr", row) for row in rows)
    return tag("table", tag("thead", tag("tr", head)) + tag("tbody", body), class_="shares")
