"""HTML from text: every text is escaped, and every name is one line that is cut off from the direction of the rest."""

import html
from datetime import datetime

from upscaling.common.text import one_line

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def text(words: object) -> str:
    """Text as HTML; control characters, line breaks and marks of direction are shown as escapes."""
    return html.escape(one_line(str(words)))


def tag(name: str, content: str = "", **attributes: object) -> str:
    """An element; `content` is HTML. `class_` is the attribute class; other names have their `_` replaced by `-`."""
    return f"<{name}{_attributes(attributes)}>{content}</{name}>"


def void(name: str, **attributes: object) -> str:
    """An element without content and end tag, such as img."""
    return f"<{name}{_attributes(attributes)}>"


def _attributes(attributes: dict[str, object]) -> str:
    return "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"' for name, value in attributes.items() if value != ""
    )


def name(words: object) -> str:
    """A file's name or path; one that is written from right to left does not turn what is around it."""
    return tag("bdi", text(words))


def byte_text(count: int) -> str:
    """`812 B`, `1.4 MiB`."""
    size, unit = float(count), 0
    while size >= 1023.95 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {UNITS[unit]}" if unit else f"{count} B"


def time_text(seconds: float) -> str:
    """Seconds since the epoch as local time."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
