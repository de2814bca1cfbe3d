"""Draws and encodes elk.mp4: an elk walks past trees, two seconds of 160x90 with sound.

    python tests/make_elk.py elk.mp4

The clip at the project's root was made by this script; nothing in it comes from anywhere else.
"""

import math
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

WIDTH, HEIGHT, RATE, SECONDS = 160, 90, 24, 2
SAMPLE_RATE = 44100
FINE = 4  # drawn that much larger and averaged down, for smooth edges


def draw_frame(number: int) -> np.ndarray:
    """Frame `number` (0-based): (HEIGHT, WIDTH, 3) uint8 RGB."""
    picture = np.empty((HEIGHT * FINE, WIDTH * FINE, 3), np.uint8)
    sky = np.linspace(0, 1, 60 * FINE)[:, None]
    picture[: 60 * FINE] = ((1 - sky) * (120, 160, 205) + sky * (236, 214, 176))[:, None]
    picture[60 * FINE :] = (96, 122, 70)
    pan = number * 0.6
    for i in range(9):  # hills and far firs move slowly, near trunks fast: depth
        _fir(picture, (i * 23 - pan * 0.4) % 200 - 15, 61, 26 + i * 7 % 13, (70, 98 + i % 3 * 6, 84))
    for i in range(26):
        x = (i * 37 % 190 - pan) % 180 - 10
        cv2.line(picture, _at(x, 64 + i * 11 % 24), _at(x + 1.5, 61 + i * 11 % 24), (128, 148, 82), FINE)
    _elk(picture, 30 + number * 1.9, 68, number)
    for x in (22.0, 118.0):
        _trunk(picture, x - pan)
    return cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def _at(x: float, y: float) -> tuple[int, int]:
    return round(x * FINE), round(y * FINE)


def _fill(picture: np.ndarray, points: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    cv2.fillPoly(picture, [np.array([_at(*p) for p in points], np.int32)], colour, cv2.LINE_AA)


def _fir(picture: np.ndarray, x: float, foot: float, height: float, colour: tuple[int, int, int]) -> None:
    for step in range(3):
        top, half = foot - height + step * height / 4, height * (0.14 + 0.07 * step)
        _fill(picture, [(x, top), (x - half, top + height / 2.2), (x + half, top + height / 2.2)], colour)


def _trunk(picture: np.ndarray, x: float) -> None:
    _fill(picture, [(x - 4, 0), (x + 4, 0), (x + 6, 90), (x - 6, 90)], (84, 62, 46))
    for y in range(0, 90, 7):
        cv2.line(picture, _at(x - 3, y), _at(x - 1.5, y + 5), (62, 44, 33), FINE, cv2.LINE_AA)
        cv2.line(picture, _at(x + 2, y + 3), _at(x + 3, y + 8), (106, 82, 62), FINE // 2, cv2.LINE_AA)


def _elk(picture: np.ndarray, x: float, foot: float, number: int) -> None:
    hide, dark, pale = (122, 84, 54), (78, 52, 36), (196, 176, 140)
    bob = math.sin(number * math.pi / 4) * 0.7
    back = foot - 26 + bob
    for hip, phase in ((-11, 0), (-8, 2), (9, 3), (12, 1)):
        swing = math.sin(number * math.pi / 6 + phase * math.pi / 2)
        knee = (x + hip + swing * 2.5, foot - 8)
        cv2.line(picture, _at(x + hip, back + 11), _at(*knee), dark, 3 * FINE, cv2.LINE_AA)
        cv2.line(picture, _at(*knee), _at(x + hip + swing * 5 - 0.5, foot + 2), dark, 2 * FINE, cv2.LINE_AA)
    cv2.ellipse(picture, _at(x, back + 7), (16 * FINE, 8 * FINE), 0, 0, 360, hide, -1, cv2.LINE_AA)
    cv2.ellipse(picture, _at(x - 15, back + 5), (3 * FINE, 4 * FINE), 0, 0, 360, pale, -1, cv2.LINE_AA)
    _fill(picture, [(x + 8, back), (x + 14, back + 10), (x + 23, back - 5), (x + 18, back - 11)], dark)
    _fill(picture, [(x + 17, back - 11), (x + 24, back - 13), (x + 33, back - 6), (x + 31, back - 3),
                    (x + 22, back - 4)], hide)  # fmt: skip
    cv2.circle(picture, _at(x + 24, back - 9), FINE // 2, (20, 14, 10), -1, cv2.LINE_AA)
    for lean in (-1.0, 1.0):  # antlers: a beam and four tines each
        beam = [(x + 20, back - 12), (x + 18 + lean * 3, back - 20), (x + 12 + lean * 5, back - 27)]
        cv2.polylines(picture, [np.array([_at(*p) for p in beam], np.int32)], False, pale, FINE + 2, cv2.LINE_AA)
        for share in (0.25, 0.5, 0.75, 1.0):
            bx, by = x + 20 - share * 8 + lean * share * 5, back - 12 - share * 14
            cv2.line(picture, _at(bx, by), _at(bx + 5, by - 5), pale, FINE, cv2.LINE_AA)


def sound() -> np.ndarray:
    """Wind and hoof beats: (1, samples) float32 in [-1, 1]."""
    time = np.arange(SAMPLE_RATE * SECONDS) / SAMPLE_RATE
    noise = np.random.default_rng(8).standard_normal(time.size)
    wind = np.convolve(noise, np.ones(80) / 80, "same") * (0.25 + 0.1 * np.sin(2 * np.pi * 0.7 * time))
    heartbeat = (time * 4) % 1  # four hoof beats a second
    hoof = np.sin(2 * np.pi * 90 * time) * np.exp(-heartbeat * 22) * 0.5
    return np.clip(wind + hoof, -1, 1).astype(np.float32)[None]


def encode(path: Path) -> None:
    """Write the clip: H.264 (BT.709 tags) and AAC, in MP4."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"crf": "18", "preset": "veryslow"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.thread_count = 1  # the same bytes on every machine
        video.codec_context.color_range, video.codec_context.colorspace = 1, 1
        video.codec_context.color_primaries, video.codec_context.color_trc = 1, 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        audio.bit_rate = 48000
        for number in range(RATE * SECONDS):
            drawn = av.VideoFrame.from_ndarray(draw_frame(number), "rgb24")
            picture = drawn.reformat(format="yuv420p", dst_colorspace=1, src_color_range=2, dst_color_range=1)
            picture.pts, picture.time_base = number, Fraction(1, RATE)
            container.mux(video.encode(picture))
        samples = sound()
        for start in range(0, samples.shape[1], 1024):
            chunk = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], "fltp", "mono")
            chunk.sample_rate, chunk.pts, chunk.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            container.mux(audio.encode(chunk))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


if __name__ == "__main__":
    encode(Path(sys.argv[1] if len(sys.argv) > 1 else "elk.mp4"))
