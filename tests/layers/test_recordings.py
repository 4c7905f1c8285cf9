"""`ostinato.chunks`: recordings of different lengths, in batches in which stateful layers go on."""

import keras
import numpy as np
import pytest

import ostinato
from ostinato.layers import GRU
from support import numpy

LENGTHS = (17, 3, 40, 8, 8, 25, 1)
T, B = 10, 3


@pytest.fixture
def recordings():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(length, 2)).astype("float32") for length in LENGTHS]


def tagger():
    keras.utils.set_random_seed(0)
    x = keras.Input(batch_shape=(B, T, 2), name="x")
    resets = keras.Input(batch_shape=(B, T), dtype="bool", name="resets")
    h = GRU(4, stateful=True, return_sequences=True)(x, resets=resets)
    return keras.Model([x, resets], keras.layers.Dense(1)(h))


def test_every_timestep_comes_once_and_in_order(recordings):
    batches = ostinato.chunks(recordings, recordings, timesteps=T, batch_size=B, seed=1)
    orders = set()
    for _ in range(4):
        got = [batches[i] for i in range(len(batches))]
        whole = np.concatenate([inputs["x"] for inputs, _, _ in got])
        for found, recording in zip(batches.apart(whole), recordings, strict=True):
            np.testing.assert_array_equal(found, recording)
        for inputs, targets, weights in got:
            np.testing.assert_array_equal(inputs["x"], targets)
            assert not targets[weights == 0].any()
        assert sum(weights.sum() for _, _, weights in got) == sum(LENGTHS)
        resets = np.stack([inputs["resets"] for inputs, _, _ in got])
        assert resets.sum() == len(LENGTHS)
        assert resets[0, :, 0].all()
        orders.add(resets.tobytes())
        batches.on_epoch_end()
    assert len(orders) > 1
    assert len(batches) == 4  # 102 timesteps in 3 rows, the longest recording of 40


def test_a_model_gives_what_it_gives_of_each_recording_alone(recordings):
    model = tagger()
    batches = ostinato.chunks(recordings, timesteps=T, batch_size=B)
    got = batches.apart(model.predict(batches, verbose=0))
    alone = GRU(4, return_sequences=True)
    alone.build((None, None, 2))
    alone.set_weights(model.layers[2].get_weights())
    for output, recording in zip(got, recordings, strict=True):
        expected = numpy(model.layers[-1](alone(recording[None])))[0]
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_fit_and_evaluate_take_it(recordings):
    model = tagger()
    model.compile("adam", "mse", run_eagerly=keras.config.backend() == "tensorflow")
    targets = [recording[:, :1] for recording in recordings]
    batches = ostinato.chunks(recordings, targets, timesteps=T, batch_size=B, seed=1)
    before = model.evaluate(batches, verbose=0)
    model.fit(batches, epochs=5, shuffle=False, verbose=0)
    assert model.evaluate(batches, verbose=0) < before


def test_batches_out_of_order_are_refused(recordings):
    batches = ostinato.chunks(recordings, timesteps=T, batch_size=B)
    with pytest.raises(ValueError, match=r"^ostinato.chunks: expected batches in .* shuffle=False"):
        batches[2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"timesteps": 0}, "expected timesteps of at least 1, got 0"),
        ({"batch_size": True}, "expected batch_size of at least 1, got True"),
        ({"seed": "a"}, "expected seed to be an int from 0 on or None, got 'a'"),
        ({"seed": -1}, "expected seed to be"),
        ({"recordings": []}, "expected recordings of at least one timestep"),
        ({"recordings": [np.zeros((0, 2))]}, "expected recordings of at least one timestep"),
        ({"targets": [np.zeros((4, 1))]}, "expected a target for each recording"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    given = {"recordings": [np.zeros((5, 2))], "timesteps": 4, "batch_size": 1, **changed}
    with pytest.raises(ValueError, match=rf"^ostinato\.chunks: {message}"):
        ostinato.chunks(**given)


def test_outputs_of_other_sizes_are_not_taken_apart(recordings):
    batches = ostinato.chunks(recordings, timesteps=T, batch_size=B)
    with pytest.raises(ValueError, match=r"expected outputs \(12, 10, \.\.\.\).*got \(12, 9, 1\)"):
        batches.apart(np.zeros((12, 9, 1)))


def test_after_predict_outputs_are_taken_apart_by_the_layout_that_they_came_from():
    recordings = [np.arange(length, dtype="float32")[:, None] for length in (7, 12, 3, 9, 5)]
    batches = ostinato.chunks(recordings, timesteps=5, batch_size=2, seed=0)
    for _ in range(2):
        given = np.concatenate([batches[number][0]["x"] for number in range(len(batches))])
        batches.on_epoch_end()
        for found, recording in zip(batches.apart(given), recordings, strict=True):
            np.testing.assert_array_equal(found, recording)


@pytest.mark.parametrize(
    ("recordings", "targets", "message"),
    [
        ([np.ones((2, 3)), np.ones((2, 1))], None, r"shapes \(1,\), \(3,\)"),
        ([np.ones((2, 3))], [1], "expected targets with an axis of timesteps"),
        ([1, 2], None, "expected recordings with an axis of timesteps"),
        ({"a": np.ones((2, 3))}, None, "expected recordings in a list, got dict"),
    ],
)
def test_what_has_no_timesteps_or_other_features_is_refused(recordings, targets, message):
    with pytest.raises(ValueError, match=message):
        ostinato.chunks(recordings, targets, timesteps=4, batch_size=1)


def test_a_dtype_that_holds_all_recordings_and_no_batch_beyond_the_last():
    batches = ostinato.chunks([np.array([[1]]), np.array([[0.5]])], timesteps=4, batch_size=1)
    assert sorted(batches[0][0]["x"].ravel()) == [0, 0, 0.5, 1]
    with pytest.raises(IndexError, match="expected batch 0 to 0"):
        batches[1]
