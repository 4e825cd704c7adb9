"""DS-CNN's training script: its augmentation by hand, and a few of its steps."""

import numpy as np
import pytest
import tensorflow as tf
from training_steps import assert_seed_decides

from models import train_ds_cnn
from models.official_downloads import SpeechClips
from models.speech_features import speech_features

SECOND = 16_000


def clips(count: int) -> SpeechClips:
    """Random sounds, which no net can learn but every net can be trained on."""
    rng = np.random.default_rng(0)
    samples = rng.normal(0.0, 3000.0, (count, SECOND)).astype(np.int16)
    samples[:, SECOND // 2] = 20_000  # no other is as far from zero, so that nothing is clipped
    noise = [rng.normal(0.0, 3000.0, length).astype(np.int16) for length in (SECOND + 1, 20_000)]
    return SpeechClips(samples, (np.arange(count) % 12).astype(np.uint8), noise)


def test_clips_are_shifted_and_zeros_move_in() -> None:
    rows = tf.constant([[1.0, 2.0, 3.0, 4.0]] * 4)
    moved = train_ds_cnn.shifted(rows, tf.constant([0, 1, -2, 4], tf.int64))
    np.testing.assert_array_equal(moved, [[1, 2, 3, 4], [0, 1, 2, 3], [3, 4, 0, 0], [0, 0, 0, 0]])


def test_noise_is_cut_from_within_one_recording() -> None:
    """Samples count up within a recording, so each cut tells where it is from."""
    recordings = [np.arange(SECOND + 500), 20_000 + np.arange(SECOND + 1)]
    noise = train_ds_cnn.join_noise([recording.astype(np.int16) for recording in recordings])
    cuts = train_ds_cnn.noise_cuts(noise, tf.constant(64), tf.constant([0, 1])).numpy()
    assert cuts.shape == (64, SECOND)
    starts = (cuts[:, 0] * 2**15).round().astype(np.int16)
    for cut, start in zip(cuts, starts, strict=True):
        recording = recordings[int(start >= 20_000)].astype(np.int16).tolist()
        begin = recording.index(start)
        np.testing.assert_allclose(cut * 2**15, recording[begin : begin + SECOND])
    assert (starts >= 20_000).any()
    assert len(np.unique(starts[starts < 20_000])) > 10


def test_noise_is_a_tenth_as_loud_at_most_and_not_in_every_clip() -> None:
    noise = train_ds_cnn.join_noise([np.full(SECOND + 1, 2**14, np.int16)])  # half of full scale
    added = train_ds_cnn.background(noise, tf.constant(500), tf.constant([0, 1])).numpy()
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1], added.shape))
    loudness = 2.0 * added[:, 0]
    assert 0.15 < (loudness == 0.0).mean() < 0.25
    assert loudness.min() == 0.0
    assert 0.095 < loudness.max() <= 0.1
    assert np.median(loudness[loudness > 0.0]) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("recordings", [[], [np.zeros(SECOND, np.int16)]], ids=["none", "short"])
def test_too_little_noise_is_refused(recordings: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"no background noise.*Received: lengths \["):
        train_ds_cnn.join_noise(recordings)


def test_features_are_the_plain_ones_but_for_shift_and_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset, seed = clips(32), tf.constant([0, 1])
    noise = train_ds_cnn.join_noise(dataset.noise)
    quiet = noise._replace(samples=tf.zeros_like(noise.samples))
    plain = speech_features(dataset.samples)[..., None]

    def changes(noise: train_ds_cnn.Noise) -> np.ndarray:
        augmented = train_ds_cnn.augmented_features(tf.constant(dataset.samples), noise, seed)
        assert augmented.shape == (32, 49, 10, 1)
        return np.abs(augmented - plain).max(axis=(1, 2, 3))

    assert np.median(changes(quiet)) > 3.0
    monkeypatch.setattr(train_ds_cnn, "LARGEST_SHIFT", 0)
    assert changes(quiet).max() < 1e-3
    assert np.median(changes(noise)) > 0.01


def test_trains_the_same_for_the_same_seed() -> None:
    dataset, recipe = clips(7), train_ds_cnn.RECIPE._replace(batch_size=4)
    assert_seed_decides(lambda seed: train_ds_cnn.train(dataset, seed, 1, recipe))
