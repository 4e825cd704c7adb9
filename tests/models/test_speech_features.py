"""The speech features: recomputed from their definition with NumPy alone, and of a real clip."""

from pathlib import Path

import numpy as np
import pytest

from models.speech_features import mfcc, speech_features


def mel(hertz: float | np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def mel_matrix() -> np.ndarray:
    """Triangles of equal width in mel, one column each; the zero frequency belongs to none."""
    frequencies = mel(np.arange(257) * 16_000 / 512)
    edges = np.linspace(mel(20.0), mel(4000.0), 42)
    matrix = np.zeros((257, 40))
    for column in range(40):
        left, middle, right = edges[column : column + 3]
        rising = (frequencies - left) / (middle - left)
        falling = (right - frequencies) / (right - middle)
        matrix[:, column] = np.maximum(0.0, np.minimum(rising, falling))
    matrix[0] = 0.0
    return matrix


def expected_features(wave: np.ndarray) -> np.ndarray:
    """One clip, float64 throughout."""
    samples = np.zeros(16_000)
    samples[: len(wave)] = wave / wave.max()
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(480) / 480)
    frames = np.stack([samples[320 * row : 320 * row + 480] * window for row in range(49)])
    log_mel = np.log(np.abs(np.fft.rfft(frames, 512)) @ mel_matrix() + 1e-6)
    angles = np.outer(np.arange(40) + 0.5, np.arange(10)) * np.pi / 40
    return np.sqrt(2.0 / 40) * log_mel @ np.cos(angles)


def chirps(count: int, length: int, seed: int) -> np.ndarray:
    """Rising tones in noise as int16 samples."""
    rng = np.random.default_rng(seed)
    time = np.arange(length) / 16_000
    start = rng.uniform(100.0, 900.0, (count, 1))
    tones = 6000.0 * np.sin(2.0 * np.pi * (start * time + 900.0 * time**2))
    return (tones + rng.normal(0.0, 500.0, (count, length))).astype(np.int16)


def test_features_follow_their_definition() -> None:
    waves = chirps(3, 16_000, seed=0)
    features = speech_features(waves)
    assert features.shape == (3, 49, 10)
    assert features.dtype == np.float32
    expected = np.stack([expected_features(wave.astype(np.float64)) for wave in waves])
    np.testing.assert_allclose(features, expected, atol=2e-3)
    assert np.ptp(expected) > 10.0


def test_units_do_not_matter() -> None:
    waves = chirps(2, 16_000, seed=1)
    floats = waves.astype(np.float32) / 32_768
    np.testing.assert_allclose(speech_features(floats), speech_features(waves), atol=1e-4)


def test_short_clips_are_filled_up_with_silence() -> None:
    waves = chirps(1, 9_000, seed=2)
    features = speech_features(waves)
    np.testing.assert_allclose(features[0], expected_features(waves[0] * 1.0), atol=2e-3)
    filled = np.pad(waves, ((0, 0), (0, 7_000)))
    np.testing.assert_array_equal(features, speech_features(filled))


def test_silence_is_the_floor_of_the_logarithm() -> None:
    features = speech_features(np.zeros((1, 16_000), np.int16))
    expected = np.zeros((1, 49, 10))
    expected[..., 0] = np.sqrt(2.0 / 40) * 40 * np.log(1e-6)
    np.testing.assert_allclose(features, expected, atol=1e-3)


def test_many_clips_are_computed_as_one_alone() -> None:
    waves = np.tile(chirps(1, 800, seed=3), (514, 1))
    features = speech_features(waves)
    assert features.shape == (514, 49, 10)
    np.testing.assert_allclose(features[[0, 511, 512, 513]], features[:1].repeat(4, 0), atol=1e-4)
    assert speech_features(waves[:0]).shape == (0, 49, 10)


@pytest.mark.parametrize(
    ("waves", "received"),
    [
        (np.zeros(16_000), r"float64 \(16000,\)"),
        (np.zeros((1, 16_001), np.int16), r"int16 \(1, 16001\)"),
        (np.zeros((1, 0)), r"float64 \(1, 0\)"),
        (np.zeros((1, 8), complex), r"complex128 \(1, 8\)"),
    ],
)
def test_what_is_no_clip_is_refused(waves: np.ndarray, received: str) -> None:
    with pytest.raises(ValueError, match=f"no clips of speech.*Received: {received}"):
        speech_features(waves)


# Samples 8,000 to 8,479 of yes/f2e59fea_nohash_1.wav of Speech Commands (P. Warden, CC BY 4.0), as
# TensorFlow's micro_speech example publishes them: the 26th window of that clip.
YES_26TH_WINDOW = """
-876 -470 510 803 170 -787 -1568 -1893 -1598 -1027 -992 -1803 -2610 -2484 -1905 -2113 -3113 -3399
-2267 -1261 -2007 -3637 -3909 -2340 -893 -1158 -2272 -2486 -1639 -915 -777 -596 -91 196 85 210 875
1373 1247 1219 1958 2718 2328 1196 1008 2350 3677 3269 1503 366 922 2264 2810 1996 608 -168 75 680
811 395 -56 -318 -607 -966 -1108 -925 -613 -368 -369 -919 -1926 -2460 -1685 -300 155 -611 -1524
-2204 -3227 -3859 -2037 1622 2382 -2583 -8448 -7544 -84 4814 915 -6423 -7558 -1746 2515 -59 -4587
-3858 1260 3625 187 -4148 -3500 1542 5467 4780 1256 -1127 -403 2481 5332 6346 5014 2536 1216 2467
5039 6238 5070 3381 3269 4173 3905 2248 1586 3299 5240 4362 1004 -1382 -489 2113 3168 1620 -742
-1824 -1435 -897 -1058 -1500 -1545 -1398 -1965 -3266 -4136 -3756 -2609 -1804 -1986 -3087 -4599
-5296 -4051 -1731 -781 -2228 -4092 -3977 -2325 -1353 -1568 -1490 -428 178 -672 -1650 -1058 749
2039 2079 1540 897 310 572 2266 4265 4265 1869 -231 559 3332 4752 3229 768 101 1364 2463 1984 819
411 723 675 -162 -923 -743 -32 185 -516 -1653 -2359 -2103 -986 42 -205 -1702 -2870 -2337 -809 -221
-982 -1544 -946 -598 -2117 -4291 -4100 -857 1948 338 -4799 -7972 -5403 173 2371 -1063 -5533 -5578
-1777 605 -985 -3249 -2213 1184 2691 560 -2356 -2288 1233 5244 6441 4004 370 -663 2555 7404 9282
6573 2612 1836 4662 7467 7393 5421 4262 4741 5362 4705 3163 2397 3337 4887 4810 2254 -749 -1316
772 2706 2016 -573 -2552 -2746 -2012 -1647 -1978 -2579 -3105 -3473 -3911 -4484 -4891 -4795 -4163
-3543 -3538 -4275 -5356 -5743 -4637 -2614 -1301 -1825 -3341 -4011 -2937 -751 1007 1245 235 -639
-61 1626 2864 2967 2734 3013 3329 2914 2312 2666 3839 4308 3162 1453 768 1255 1887 2006 1715 1031
-297 -1660 -1690 -277 813 -30 -2137 -3370 -2854 -1553 -593 -413 -1146 -2567 -3440 -2369 -205 379
-1258 -2315 -812 262 -3205 -8576 -7894 738 7492 1951 -11595 -17098 -6934 7139 8065 -4575 -14199
-8946 3606 7504 -547 -8242 -5113 4406 8113 2134 -5040 -4089 4157 10934 10158 4167 -565 -192 4428
9765 12201 9861 4512 1225 3451 8483 10133 6497 2574 3333 6806 6986 2487 -1214 623 5416 6647 2204
-3289 -4556 -1565 1544 1525 -1236 -4293 -5695 -5174 -3995 -3403 -3449 -3750 -4505 -6014 -7296
-6523 -3849 -2096 -3288 -5722 -6004 -3581 -1497 -1960 -3330 -2800 -434 964 -111 -1739 -1136 1736
4151 3736 1274 -451 469 3386 5833 5898 3646 1085 272 1743 4061 5108 3837 1490 246 967 1866 859
-1069 -974 1542 2835 47 -4285 -5068 -1567 1781 1223 -1997 -4227 -3747 -1720 41 245 -1228 -2972
-2673 22 1980 -930 -7721 -11271 -5725 4974 8484 -2007 -16979 -19255 -4670 11057 9690 -6417 -17537
-10841 4262 9292
"""


def test_a_published_window_has_the_features_of_the_local_file(shared_data: Path) -> None:
    """All but the first coefficient do not depend on the clip's greatest sample.

    That one then tells the sample, which was a whole number.
    """
    with np.load(shared_data / "data" / "kws.npz") as archive:
        row = archive["test_name"].tolist().index("yes/f2e59fea_nohash_1.wav")
        expected = archive["x_test"][row, 25]
    scale = 20_000.0
    samples = np.zeros((1, 16_000), np.float32)
    samples[0, 8_000:8_480] = np.array(YES_26TH_WINDOW.split(), np.float32) / scale
    window = mfcc(samples).numpy()[0, 25]
    np.testing.assert_allclose(window[1:], expected[1:], atol=1e-4)
    greatest = scale * np.exp((window[0] - expected[0]) / (np.sqrt(2.0 / 40) * 40))
    assert greatest == pytest.approx(round(greatest), abs=0.1)
