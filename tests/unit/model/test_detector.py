"""A model in a notebook says of a dataframe what the stream says of its events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import model
from beam_jobs.errors import UserError
from beam_jobs.steps.infer import score_block
from beam_jobs.use_case import load_use_case
from model import detector
from model.loaded import LoadedModel
from model.training.train import Trained

CARS = load_use_case("car_sensors")


@pytest.fixture
def cars(trained: Trained) -> model.Detector:
    return model.load(str(Path(trained.folder).parent.parent))


@pytest.fixture
def events(data: Path) -> pa.Table:
    [path] = data.rglob("*.parquet") if data.is_dir() else [data]
    return pq.read_table(path).slice(0, 500)


def test_the_scores_are_those_of_the_stream(
    cars: model.Detector, trained: Trained, events: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "_BLOCK_ROWS", 64)
    found = cars.score(events)
    preprocessor = CARS.preprocessor()
    done = preprocessor.apply(cars._events(events))
    block = score_block(done.rows, LoadedModel.load(Path(trained.folder)), preprocessor.features)
    assert found["score"].drop_null().to_numpy().tobytes() == block["score"].to_numpy().tobytes()
    scored = found["reason"].is_null().to_numpy()
    assert np.flatnonzero(scored).tolist() == done.kept.tolist()
    high = block["score"].to_numpy() > cars.manifest.threshold
    assert found["anomaly"].drop_null().to_pylist() == high.tolist()
    percentile = found["percentile"].drop_null().to_numpy()
    assert percentile[high].tolist() == block["percentile"].to_numpy()[high].tolist()


@pytest.mark.parametrize("as_frame", [pa.Table.to_pandas, pl.from_arrow, pa.Table.combine_chunks])
def test_every_kind_of_dataframe(cars: model.Detector, events: pa.Table, as_frame: Any) -> None:
    frame = as_frame(events)
    found = cars.score(frame)
    assert type(found) is type(frame)
    assert list(getattr(found, "column_names", found.columns)) == ["score", "anomaly", "percentile", "reason", "error"]
    assert np.array_equal(np.array(found["score"]), np.array(cars.score(events)["score"]), equal_nan=True)


def test_pandas_keeps_its_index_and_its_own_types(cars: model.Detector, events: pa.Table) -> None:
    frame = events.to_pandas()
    frame.index = pd.Index([f"row {i}" for i in range(len(frame))])
    frame["of no interest"] = [object()] * len(frame)
    time, key = CARS.event_time, CARS.key
    frame[time] = frame[time].dt.tz_localize(None).astype("datetime64[ns]") + pd.Timedelta(1, "ns")
    frame[key] = frame[key].astype("category")
    found = cars.score(frame)
    assert found.index.equals(frame.index)
    assert np.array_equal(found["score"], cars.score(events)["score"].to_numpy(), equal_nan=True)


def test_rows_that_have_no_score_say_why(cars: model.Detector, events: pa.Table) -> None:
    frame = events.to_pandas()
    number = next(name for name in CARS.preprocessor().input_columns if frame[name].dtype == "float64")
    frame.loc[1, number] = np.nan
    found = cars.score(frame)
    assert found["reason"][1] == "not_finite"
    assert number in found["error"][1]
    assert pd.isna(found["score"][1])
    assert pd.isna(found["anomaly"][1])
    assert set(found["reason"].dropna()) <= {"not_finite", detector.FILTERED}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda frame: frame.drop(columns=CARS.key), f"events: no column '{CARS.key}'"),
        (lambda frame: frame.assign(**{CARS.event_time: "soon"}), f"column '{CARS.event_time}' is"),
        (lambda frame: frame.to_dict(), "score takes a DataFrame of pandas or polars or a pyarrow table, not dict"),
        (lambda frame: frame[CARS.key], "score takes a DataFrame of pandas or polars or a pyarrow table, not Series"),
    ],
)
def test_what_is_no_events(cars: model.Detector, events: pa.Table, change: Any, error: str) -> None:
    with pytest.raises(UserError, match=error):
        cars.score(change(events.to_pandas()))


def test_another_use_case_is_refused(trained: Trained, tmp_path: Path) -> None:
    import shutil

    import use_cases

    folder = tmp_path / "car_sensors"
    shutil.copytree(Path(use_cases.__file__).parent / "car_sensors", folder)
    sql = folder / "preprocess.sql"
    sql.write_text(sql.read_text() + "\n  AND speed < 1000\n")
    with pytest.raises(UserError, match="was trained on preprocessing"):
        model.load(str(Path(trained.folder).parent.parent), str(folder))
