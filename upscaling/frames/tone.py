"""HDR pictures for an ordinary screen: PQ and HLG brought into the brightness and the colours of sRGB."""

import numpy as np

WHITE = 203.0  # cd/m² of white paper in HDR (ITU-R BT.2408, table 1): 1.0 in what follows
HLG_PEAK = 1000.0  # cd/m² of the display that HLG is shown on (ITU-R BT.2100, table 5)
KNEE = 0.75  # of white; brighter light is compressed
# From BT.2020's primaries to BT.709's, both with D65 (ITU-R BT.2087, M2 inverted).
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)  # fmt: skip
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}


def in_srgb(picture: np.ndarray, transfer: str) -> np.ndarray:
    """(height, width, 3 or 4) uint16 of full range, BT.2020 and a transfer function of HDR, as uint8 sRGB."""
    coded = picture[..., :3].astype(np.float32) / 65535
    light = _pq_light(coded) if transfer == "smpte2084" else _hlg_light(coded)
    light = np.maximum(light @ _TO_BT709.T, 0)  # (height, width, 3) @ (3, 3)
    peak = np.maximum(light.max(-1, keepdims=True), 1e-6)
    over = np.maximum(peak - KNEE, 0) / (1 - KNEE)
    light *= np.where(peak > KNEE, KNEE + (1 - KNEE) * over / (1 + over), peak) / peak
    # IEC 61966-2-1
    out = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-6) ** (1 / 2.4) - 0.055)
    rgb = np.rint(out * 255).clip(0, 255).astype(np.uint8)
    return np.dstack([rgb, (picture[..., 3:] >> 8).astype(np.uint8)])


def _pq_light(coded: np.ndarray) -> np.ndarray:
    """The EOTF of PQ (ITU-R BT.2100, table 4), as a multiple of WHITE."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = coded ** (1 / m2)
    return 10000 / WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _hlg_light(coded: np.ndarray) -> np.ndarray:
    """The inverse OETF and the OOTF of HLG (ITU-R BT.2100, table 5), as a multiple of WHITE."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return HLG_PEAK / WHITE * scene * np.maximum(luminance, 1e-6)[..., None] ** 0.2
