"""Text subtitles converted from one codec's packets to another's: words, bold, italic and underlined text are kept."""

import html
import re
import struct
from dataclasses import dataclass

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
_TAG = re.compile(r"<(/?)([biuBIU])(?:[.\s][^<>]*)?>|</?[a-zA-Z][^<>]*>|<[\d:.]+>")
_OVERRIDE = re.compile(r"\{\\[^{}]*\}")
_MARKUP = re.compile(r"(\{\\[^{}]*\}|</?[a-zA-Z][^<>]*>|<[\d:.]+>)")
_ASS_STYLE = re.compile(r"\\([biu])(\d+)|\\(r)")
_FACES = {"b": 1, "i": 2, "u": 4}  # bits of a face, as 3GPP TS 26.245 5.17.1.2 has them
# What the header above gives mov_text: the font's number, its size, and white in RGBA.
_FONT, _FONT_SIZE, _COLOUR = 1, 16, 0xFFFFFFFF


@dataclass(frozen=True)
class Text:
    """The words of a subtitle, lines separated by "\\n", and the faces in it: (first, end) character and bits."""

    words: str
    faces: tuple[tuple[int, int, int], ...] = ()

    def stripped(self) -> "Text":
        """Without blank ends."""
        start = len(self.words) - len(self.words.lstrip("\n\0 "))
        words = self.words.strip("\n\0 ")
        cut = ((max(a - start, 0), min(b - start, len(words)), bits) for a, b, bits in self.faces)
        return Text(words, tuple((a, b, bits) for a, b, bits in cut if a < b))


def is_gap(packet: av.Packet) -> bool:
    """Whether this mov_text packet only marks a time without text; MP4's muxer writes such packets by itself."""
    context = packet.stream.codec_context
    return packet.size == 2 and context is not None and context.name == "mov_text" and not any(bytes(packet))


def convert(data: bytes, source: str, target: str) -> bytes | None:
    """One packet's content in the target codec; None if it has no text (mov_text marks gaps that way)."""
    text = read(data, source)
    if not text.words:
        return None
    if target == "mov_text":
        return _mov_text(text)
    return re.sub(r"\n{2,}", "\n", _tagged(text, target)).encode()  # an empty line would end the cue


def read(data: bytes, source: str) -> Text:
    """The text of one packet with what is bold, italic and underlined."""
    if source == "mov_text":
        return _read_mov_text(data).stripped()
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    if source in ("ass", "ssa"):  # Matroska's fields: ReadOrder,Layer,Style,Name,MarginL,MarginR,MarginV,Effect,Text
        text = text.split(",", 8)[-1].replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
    words, bits, faces = "", 0, []
    for piece in _MARKUP.split(text):
        changed = _changed(bits, piece)
        if changed is None:
            piece = html.unescape(piece) if source == "webvtt" else piece
            faces += [(len(words), len(words) + len(piece), bits)] if bits and piece else []
            words += piece
        else:
            bits = changed
    return Text(words, tuple(faces)).stripped()


def _changed(bits: int, piece: str) -> int | None:
    """The face after a tag or an override; None for words."""
    if _OVERRIDE.fullmatch(piece):
        for name, value, reset in _ASS_STYLE.findall(piece):
            bits = 0 if reset else bits | _FACES[name] if int(value) else bits & ~_FACES[name]
        return bits
    tag = _TAG.fullmatch(piece)
    if tag is None:
        return None
    face = _FACES.get((tag[2] or "").lower(), 0)
    return bits & ~face if tag[1] else bits | face


def _tagged(text: Text, target: str) -> str:
    """The text with <b>, <i> and <u>, as SubRip and WebVTT have them."""
    escaped = [html.escape(one, quote=False) if target == "webvtt" else one for one in text.words]
    for first, end, bits in text.faces:
        names = [name for name, bit in _FACES.items() if bits & bit]
        escaped[first] = "".join(f"<{name}>" for name in names) + escaped[first]
        escaped[end - 1] += "".join(f"</{name}>" for name in reversed(names))
    return "".join(escaped)


# mov_text (3GPP TS 26.245): 16-bit length in bytes, UTF-8, then boxes


def _mov_text(text: Text) -> bytes:
    words = text.words
    while len(content := words.encode()) > 0xFFFF:
        words = words[: len(words) * 3 // 4]
    faces = [(first, min(end, len(words)), bits) for first, end, bits in text.faces if first < len(words)]
    records = b"".join(struct.pack(">HHHBBI", a, b, _FONT, bits, _FONT_SIZE, _COLOUR) for a, b, bits in faces)
    box = struct.pack(">I4sH", 10 + len(records), b"styl", len(faces)) + records if faces else b""
    return len(content).to_bytes(2, "big") + content + box


def _read_mov_text(data: bytes) -> Text:
    length = int.from_bytes(data[:2], "big")
    content, boxes = data[2 : 2 + length], data[2 + length :]
    coding = "utf-16" if content[:2] in (b"\xfe\xff", b"\xff\xfe") else "utf-8"
    words, faces = content.decode(coding, "replace").replace("\r", "\n"), []
    while len(boxes) >= 10:
        size, kind, count = struct.unpack(">I4sH", boxes[:10])
        if kind == b"styl":
            records = boxes[10 : 10 + 12 * count]
            for first, end, _, bits, _, _ in struct.iter_unpack(">HHHBBI", records[: len(records) // 12 * 12]):
                faces += [(first, min(end, len(words)), bits & 7)] if bits & 7 and first < end else []
        boxes = boxes[max(size, 8) :]
    return Text(words, tuple(faces))
