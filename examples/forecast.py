"""CO2 over Mauna Loa a year ahead: trained in chunks that pass on their state, then streamed.

    python examples/forecast.py

The LSTM reads the last week's change and the season, and says this week's change. In training its
state goes on from one chunk of the record to the next (`stateful=True`), and is reset each epoch.
Then it lives through 1990 to 2001 as a stream, a week a step. Each quarter its state is copied to a
hundred streams; each imagines a year, feeding back its own weeks and erring as the model erred in
training. Their median is the forecast, the middle eighty the band. Baselines: the last week stays;
last year comes again, with last year's growth.
"""

import _shared  # first: it chooses the backend
import keras
import numpy as np
from _pictures import draw_forecast
from keras import layers
from statsmodels.datasets import co2

import ostinato
from ostinato.layers import LSTM

YEAR, QUARTER, FUTURES = 52, 13, 100  # weeks, weeks, streams


class Record:
    """The weekly record in ppm, and its changes from week to week, centred and scaled."""

    def __init__(self):
        weeks = co2.load_pandas().data["co2"].interpolate()
        self.dates, self.ppm = weeks.index.to_numpy(), weeks.to_numpy()
        season = 2 * np.pi * weeks.index.day_of_year.to_numpy() / 365.25
        self.season = np.stack([np.sin(season), np.cos(season)], axis=1)
        self.split = int(np.searchsorted(self.dates, np.datetime64("1990")))
        changes = np.diff(self.ppm, prepend=self.ppm[0])
        self.mean, self.scale = np.mean(changes[: self.split]), np.std(changes[: self.split])
        self.changes = (changes - self.mean) / self.scale

    def inputs(self, weeks, changes):
        """What the model reads to say the change in `weeks`: the one before, and the season."""
        season = np.broadcast_to(self.season[weeks], (len(changes), 2))
        return np.column_stack([changes, season]).astype("float32")


class Anew(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.get_layer("lstm").reset_state()

    def on_epoch_end(self, epoch, logs=None):
        if epoch % 10 == 9:
            print(f"Epoch {epoch + 1}: loss {logs['loss']:.3f}", flush=True)


def train(record, epochs):
    """Trains on the weeks before the split; returns the model, their inputs and targets."""
    weeks = np.arange(2, record.split)
    inputs, targets = record.inputs(weeks, record.changes[weeks - 1]), record.changes[weeks, None]
    years = len(weeks) // YEAR  # the chunks
    x, y = (array[-years * YEAR :].reshape(years, YEAR, -1) for array in (inputs, targets))
    lstm = LSTM(32, return_sequences=True, stateful=True, name="lstm")
    model = keras.Sequential([keras.Input((None, 3), batch_size=1), lstm, layers.Dense(1)])
    rate = keras.optimizers.schedules.CosineDecay(5e-3, epochs * years)
    model.compile(keras.optimizers.Adam(rate), "mse")
    model.fit(x, y, batch_size=1, epochs=epochs, shuffle=False, verbose=0, callbacks=[Anew()])
    return model, inputs, targets


def imagine(futures, record, week, errors):
    """A year of each of the futures from `week` on, in ppm: (YEAR, FUTURES)."""
    change, ppm, path = np.full(FUTURES, record.changes[week - 1]), record.ppm[week - 1], []
    for ahead in range(YEAR):
        change = futures.step(record.inputs(week + ahead, change))[:, 0] + errors[ahead]
        ppm = ppm + change * record.scale + record.mean
        path.append(ppm)
    return np.array(path)


def live(model, record, inputs, targets):
    """Streams the whole record; returns the weeks forecast from, and the futures of each."""
    stream, futures = ostinato.stream(model), ostinato.stream(model, streams=FUTURES)
    errors = (targets - stream.run(inputs))[:, 0]  # now its state is that of the end of 1989
    random, weeks, imagined = np.random.default_rng(0), [], []
    for week in range(record.split, len(record.ppm)):
        if (week - record.split) % QUARTER == 0 and week + YEAR <= len(record.ppm):
            h, c = stream.state["lstm"]
            futures.state = {"lstm": [np.tile(h, (FUTURES, 1)), np.tile(c, (FUTURES, 1))]}
            weeks.append(week)
            imagined.append(imagine(futures, record, week, random.choice(errors, (YEAR, FUTURES))))
        stream.step(record.inputs(week, record.changes[[week - 1]])[0])
    return np.array(weeks), np.array(imagined)


def main(argv=None):
    options = _shared.arguments(__doc__, argv, epochs=60)
    keras.utils.set_random_seed(0)
    record = Record()
    model, inputs, targets = train(record, options.epochs)
    weeks, imagined = live(model, record, inputs, targets)
    low, median, high = np.quantile(imagined, (0.1, 0.5, 0.9), axis=2)  # each (forecasts, YEAR)
    ahead = weeks[:, None] + np.arange(YEAR)
    truth, last = record.ppm[ahead], record.ppm[weeks - 1, None]
    growth = last - record.ppm[weeks - 1 - YEAR, None]
    forecasts = {
        "the last week stays": np.broadcast_to(last, truth.shape),
        "last year, and its growth": record.ppm[ahead - YEAR] + growth,
        "the LSTM, streamed": median,
    }
    print(f"{len(weeks)} forecasts of the {YEAR} weeks to come, from 1990 on; mean error in ppm:")
    errors = {name: np.abs(forecast - truth) for name, forecast in forecasts.items()}
    for name, error in errors.items():
        print(f"  {name:26}{error.mean():.2f}")
    held = np.mean((low <= truth) & (truth <= high))
    print(f"The band, meant for 80 % of the weeks, held {held:.0%} of them.")
    draw_forecast(record, ahead, (low, median, high), errors, options.output / "forecast.png")
    return {name: error.mean() for name, error in errors.items()}, held


if __name__ == "__main__":
    main()
