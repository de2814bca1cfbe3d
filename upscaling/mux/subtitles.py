"""Text subtitles converted from one codec's packets to another's: the words are kept, styling is dropped."""

import html
import re

import av

# Container (a key of `containers.CONTAINERS`) → the codec for text whose own codec the container can't hold.
TEXT_CODEC = {"mp4": "mov_text", "mov": "mov_text", "mkv": "subrip", "webm": "webvtt"}
READABLE = ("subrip", "srt", "text", "webvtt", "mov_text", "ass", "ssa")
# Script header that the mov_text and webvtt encoders need before they open.
ASS_HEADER = b"""[Script Info]\r
ScriptType: v4.00+\r
PlayResX: 384\r
PlayResY: 288\r
\r
[V4+ Styles]\r
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, \
Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, \
Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\r
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1\r
\r
[Events]\r
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\r
"""
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|<[\d:.]+>")
_OVERRIDE = re.compile(r"\{[\\\\][^{}]*\}")


def is_gap(packet: av.Packet) -> bool:
    """Whether this mov_text packet only marks a time without text; MP4's muxer writes such packets by itself."""
    context = packet.stream.codec_context
    return packet.size == 2 and context is not None and context.name == "mov_text" and not any(bytes(packet))


def convert(data: bytes, source: str, target: str) -> bytes | None:
    """One packet's content in the target codec; None if it has no text (mov_text marks gaps that way)."""
    text = plain(data, source)
    if not text:
        return None
    if target == "mov_text":  # 3GPP TS 26.245: 16-bit length in bytes, then UTF-8
        content = text.encode()
        while len(content) > 0xFFFF:
            text = text[: len(text) * 3 // 4]
            content = text.encode()
        return len(content).to_bytes(2, "big") + content
    if target == "webvtt":
        text = html.escape(text, quote=False)
    return re.sub(r"\n{2,}", "\n", text).encode()  # an empty line would end the cue


def plain(data: bytes, source: str) -> str:
    """The text of one packet, lines separated by "\\n"."""
    if source == "mov_text":
        length = int.from_bytes(data[:2], "big")
        data = data[2 : 2 + length]
        coding = "utf-16" if data[:2] in (b"\xfe\xff", b"\xff\xfe") else "utf-8"
        return data.decode(coding, "replace").replace("\r", "\n").strip("\n\0 ")
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    if source in ("ass", "ssa"):  # Matroska's fields: ReadOrder,Layer,Style,Name,MarginL,MarginR,MarginV,Effect,Text
        text = text.split(",", 8)[-1].replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
    text = _MARKUP.sub("", _OVERRIDE.sub("", text))
    return (html.unescape(text) if source == "webvtt" else text).strip("\n\0 ")
