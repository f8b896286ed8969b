"""Personal values planted in every tagged field, and looked for in all that jobs and training leave behind.

The values are found by what they are, in any form: as text, in hexadecimal or Base64, compressed, as a column's number.
Archive, model, scores, alerts, dead letters, reports, logs, offsets and temporary files, those that are gone too.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, TopicPartition

from beam_jobs import archive, score
from model.training.plan import Settings
from model.training.train import train
from tests.integration.topics import Topics

MARK = "cAnArY7f3e"  # in each text, never in the first characters
LATITUDE, LONGITUDE = 48.13741234, 11.57541234  # the first digits of all of them
OF_HOUR = 1_234_567  # ms: of each event's time
BAD = 13  # records that are no events
HOUR = 3_600_000
START = 1_764_000_000_000 // HOUR * HOUR + OF_HOUR

TEXTS = {"card": "direct", "name": "direct", "mail": "direct", "zip": "quasi"}
FIELDS: list[dict[str, Any]] = [
    *({"name": name, "type": "string", "pii": tag} for name, tag in TEXTS.items()),
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "pii": "quasi"},
    {"name": "latitude", "type": "double", "pii": "quasi", "unit": "°", "min": -90, "max": 90},
    {"name": "longitude", "type": "double", "pii": "quasi", "unit": "°", "min": -180, "max": 180},
    {
        "name": "owner",
        "type": {"type": "record", "name": "Owner", "fields": [{"name": "phone", "type": "string", "pii": "direct"}]},
    },
    {"name": "amount", "type": "double", "min": 0},
]
PROTECTED = """
SELECT encrypt(card) AS card, pseudonymize(name) AS name, generalize(zip, 2) AS zip, truncate(at, 'hour') AS at,
       truncate(latitude, 2) AS latitude, truncate(longitude, '5 km', latitude) AS longitude, amount
FROM events WHERE zip LIKE '8%'
"""
PLAIN = "SELECT card, name, zip, at, latitude, longitude, amount FROM events"


def use_case(folder: Path, protected: bool) -> str:
    fields = json.loads(json.dumps(FIELDS))
    if not protected:
        for field in [*fields, *fields[7]["type"]["fields"]]:
            field.pop("pii", None)
    folder.mkdir()
    (folder / "e.avsc").write_text(json.dumps({"type": "record", "name": "E", "fields": fields}))
    settings = {"schema": "e.avsc", "key": "card", "event_time": "at", "pii": {"keys": {"a": "env:HIGHBEAM_TEST_KEY"}}}
    settings["model"] = {"epochs": 1, "alert_budget": 0.01}
    (folder / "use_case.yaml").write_text(json.dumps(settings))
    (folder / "preprocess.sql").write_text(PROTECTED if protected else PLAIN)
    return str(folder)


def event(i: int) -> dict[str, Any]:
    return {
        **{name: f"80-{name}-{MARK}-{i}" for name in TEXTS},
        "at": START + i % 12 * HOUR,  # a dozen folders
        "latitude": LATITUDE + i * 1e-9,
        "longitude": LONGITUDE + i * 1e-9,
        "owner": {"phone": f"00-{MARK}-{i}"},
        "amount": float(i % 50) if i % 100 else 1e6,
    }


def records(rows: int) -> tuple[list[bytes | None], list[bytes | None]]:
    """Values and keys: events, and behind them BAD such as are none, each in another way."""
    found = [event(i) for i in range(rows)]
    bad = [{**event(7), "latitude": 1000 + LATITUDE}, {**event(7), "card": "80-" + MARK * 20_000}]
    bad += [{**event(7), name: [f"00{MARK}"]} for name in ("card", "at", "latitude", "owner", "amount")]
    bad += [{name: value for name, value in event(7).items() if name != left_out} for left_out in ("card", "amount")]
    values = [json.dumps(each).encode() for each in (*found, *bad)]
    values += [f"00{MARK}".encode(), f'{{"card": "00{MARK}", '.encode(), values[0][:-9], f'["00{MARK}"]'.encode()]
    return list(values), [f"00-key-{MARK}-{i}".encode() for i in range(len(values))]


# The search.


def forms() -> list[bytes]:
    """All that the texts look like as bytes."""
    texts = [text.encode() for text in (MARK, f"{LATITUDE:.4f}", f"{LONGITUDE:.4f}", ":20:34.567")]
    found = [form for text in texts for form in (text, text.hex().encode(), text.hex().upper().encode())]
    for shift in range(3):  # how the mark lies in groups of three bytes; what is beside it changes its first and last
        coded = base64.b64encode(b"\0" * shift + MARK.encode())
        found.append(coded[(0, 2, 3)[shift] : (shift + len(MARK)) * 4 // 3])
    return found


FORMS = forms()


def leaks(what: str, data: bytes) -> Iterator[str]:
    """Where the values are in some bytes, and in what is packed in them."""
    for form in FORMS:
        if (at := data.find(form)) >= 0:
            yield f"{what}: {data[max(0, at - 40) : at + 40]!r}"
    yield from (f"{what}: the time {m[0]!r}" for m in re.finditer(rb"1[78]\d{11}", data) if int(m[0]) % HOUR == OF_HOUR)
    if data[:4] == b"PAR1":
        yield from _columns(what, pq.read_table(io.BytesIO(data)))
    elif data[:4] == b"Obj\1":
        rows = [row for row in fastavro.reader(io.BytesIO(data)) if isinstance(row, dict)]
        yield from _columns(what, pa.Table.from_pylist(rows))
    elif data[:4] == b"PK\3\4":
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            for name in packed.namelist():
                yield from leaks(f"{what}/{name}", packed.read(name))
    elif data[:2] == b"\x1f\x8b":
        yield from leaks(f"{what} unzipped", gzip.decompress(data))
    elif data[:1] == b"\x78":
        try:
            yield from leaks(f"{what} inflated", zlib.decompress(data))
        except zlib.error:
            return
    elif data[:6] == b"\x93NUMPY":
        yield from _numbers(what, np.load(io.BytesIO(data), allow_pickle=False))


def _columns(what: str, table: pa.Table) -> Iterator[str]:
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ms")).cast(pa.int64())
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            yield from _numbers(f"{what}/{name}", column.drop_null().to_numpy())
        else:
            yield from leaks(f"{what}/{name}", repr(column.to_pylist()).encode())


def _numbers(what: str, values: Any) -> Iterator[str]:
    if values.dtype.kind not in "fiu" or not values.size:
        return
    for near, within in ((LATITUDE, 1e-4), (LONGITUDE, 1e-4)):
        if (np.abs(values.astype(np.float64) - near) < within).any():
            yield f"{what}: {near}"
    times = values[values > 1e12] if values.size else values
    if times.size and (times.astype(np.int64) % HOUR == OF_HOUR).any():
        yield f"{what}: the time"


def in_files(folder: Path) -> list[str]:
    return [
        leak for file in sorted(folder.rglob("*")) if file.is_file() for leak in leaks(str(file), file.read_bytes())
    ]


@contextmanager
def kept(folder: Path, into: Path) -> Iterator[None]:
    """Files that come into the folder get a second name, by which they are there when they are gone."""
    into.mkdir(parents=True)
    seen: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for where, _, names in os.walk(folder):
                for name in names:
                    try:
                        number = os.stat(path := os.path.join(where, name)).st_ino
                        if number not in seen:
                            os.link(path, into / f"{len(seen)}-{name}"[:200])
                            seen.add(number)
                    except OSError:
                        continue  # it is gone already

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    text, packed = json.dumps(event(3)).encode(), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("inner", text)
    rows = [{"t": event(1)["card"], "x": 1.0}]
    avro, parquet = io.BytesIO(), io.BytesIO()
    schema = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "t", "type": "string"}, {"name": "x", "type": "double"}],
    }
    fastavro.writer(avro, schema, rows, codec="deflate")
    pq.write_table(pa.Table.from_pylist(rows), parquet, compression="zstd")
    numbers = io.BytesIO()
    np.savez_compressed(numbers, a=np.array([1, LATITUDE], np.float32))
    shapes = [text, gzip.compress(text), zlib.compress(text), packed.getvalue(), avro.getvalue(), parquet.getvalue()]
    shapes += [
        numbers.getvalue(),
        *(base64.b64encode(b"x" * i + text[9:40]) for i in range(3)),
        text[9:40].hex().encode(),
    ]
    for i, shape in enumerate(shapes):
        assert list(leaks(str(i), shape)), i
    assert not list(leaks("", json.dumps({"lat": 48.13, "at": START - OF_HOUR, "zip": "80"}).encode()))


class World:
    """Where jobs leave what they leave: topics, and a folder that everything goes to."""

    def __init__(self, topics: Topics, folder: Path) -> None:
        self.topics, self.left, self._gone = topics, folder / "left", folder / "gone"
        for name in ("temporary", "cwd"):
            (self.left / name).mkdir(parents=True)

    def words(self, job: str, case: str, *more: str, payload: str = "encrypt") -> list[str]:
        """The command line of a job, which writes a report of its name."""
        shared = [f"--use_case={case}", f"--input={self.topics.uri('events')}", "--until=latest", f"--group_id={job}"]
        dead = [f"--dead_letters={self.topics.uri('dead')}", "--max_dead_letter_rate=1"]
        dead += [f"--dead_letter_payload={payload}"]
        key = ["--dead_letter_key=env:HIGHBEAM_TEST_DEAD"] if payload == "encrypt" else []
        return [*shared, *dead, *key, f"--report={self.left / f'{job}.json'}", "--verbose", *more]

    def keeping(self) -> AbstractContextManager[None]:
        """While it is open no file is lost to the search."""
        return kept(self.left, self._gone)

    def failing(self, case: str) -> str:
        """An archive job whose sink fails: where a folder of it is to be, somebody has put a file."""
        day = datetime.fromtimestamp(START / 1000, UTC).strftime("%Y-%m-%d")
        (self.left / "broken").mkdir()
        (self.left / "broken" / f"highbeam_date={day}").write_text("")
        with pytest.raises(Exception, match=r".") as failed:
            archive.main(self.words("broken", case, f"--output={self.left / 'broken'}"))
        return repr(failed.value)

    def leaks(self, log: str, topics: Sequence[str], groups: Sequence[str]) -> list[str]:
        """All that is found."""
        assert any(self._gone.iterdir())
        found = in_files(self.left) + in_files(self._gone) + list(leaks("log", log.encode()))
        for topic in topics:
            written = everything(self.topics, topic)
            assert written
            found += [leak for record in written for leak in leaks(topic, record)]
        return found + [leak for group in groups for leak in leaks(f"offsets of {group}", marks(self.topics, group))]


@pytest.fixture
def world(topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(topics, tmp_path)
    monkeypatch.setenv("HIGHBEAM_TEST_KEY", "k" * 32)
    monkeypatch.setenv("HIGHBEAM_TEST_DEAD", "ab" * 32)
    monkeypatch.setattr(tempfile, "tempdir", str(made.left / "temporary"))
    monkeypatch.setenv("TMPDIR", str(made.left / "temporary"))
    monkeypatch.setenv("HIGHBEAM_CACHE", str(made.left / "cache"))
    monkeypatch.chdir(made.left / "cwd")
    return made


@pytest.mark.integration
def test_no_personal_value_leaves_an_archive_job(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    world.topics.send("events", *records(300))
    case = use_case(tmp_path / "case", protected=True)
    with world.keeping():
        assert archive.main(world.words("parquet", case, f"--output={world.left / 'p'}", "--file_format=parquet")) == 0
        failed = world.failing(case)
    said = capfd.readouterr()
    report = json.loads((world.left / "parquet.json").read_text())
    assert report["read"] == 300 + BAD
    assert report["dead_letters"] >= 10
    assert world.leaks(said.out + said.err + failed, ["dead"], ["parquet"]) == []

    # Where nothing is tagged, the same search finds them: in the archive, and in dead letters.
    plain, folder = use_case(tmp_path / "plain", protected=False), tmp_path / "open"
    more = (f"--output={folder}", "--file_format=parquet")
    assert archive.main(world.words("open", plain, *more, payload="keep")) == 0
    names = {leak.split(": ")[0].rpartition("/")[2] for leak in in_files(folder)}
    assert {"card", "name", "zip", "at", "latitude", "longitude"} <= names
    assert any(True for record in everything(world.topics, "dead") for _ in leaks("dead", record))


@pytest.mark.nightly  # what test_no_personal_value_leaves_an_archive_job shows, of all the rest too
@pytest.mark.integration
def test_no_personal_value_leaves(world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    world.topics.send("events", *records(3_000))
    case = use_case(tmp_path / "case", protected=True)
    with world.keeping():
        assert archive.main(world.words("avro", case, f"--output={world.left / 'avro'}")) == 0
        models = world.left / "models"
        train(Settings(case, str(world.left / "avro"), str(models), epochs=1, baseline=False, peers=False))
        sinks = [f"--alerts={world.topics.uri('alerts')}", f"--scores={world.topics.uri('scores')}"]
        assert score.main(world.words("score", case, f"--model={models}", *sinks)) == 0
        failed = world.failing(case)
    said = capfd.readouterr()
    report = json.loads((world.left / "score.json").read_text())
    assert report["read"] == 3_000 + BAD
    assert report["dead_letters"] >= 10
    found = world.leaks(said.out + said.err + failed, ["alerts", "scores", "dead"], ["avro", "score"])
    assert found == []


def everything(topics: Topics, name: str) -> list[bytes]:
    """Keys, values and headers of a topic's records."""
    consumer = Consumer({"bootstrap.servers": topics.servers, "group.id": "search"})
    where = TopicPartition(topics.name(name), 0, 0)
    _, end = consumer.get_watermark_offsets(where, 10)
    consumer.assign([where])
    found: list[bytes] = []
    at = 0
    while at < end:
        for message in consumer.consume(10_000, 1.0):
            headers = [value or b"" for _, value in message.headers() or []]
            found.append(b"\0".join([message.key() or b"", message.value() or b"", *headers]))
            at = message.offset() + 1
    consumer.close()
    return found


def marks(topics: Topics, group: str) -> bytes:
    """What a group has committed beside its offsets."""
    consumer = Consumer({"bootstrap.servers": topics.servers, "group.id": group})
    wanted = [TopicPartition(topics.name("events"), partition) for partition in range(4)]
    found = consumer.committed(wanted, 10)
    consumer.close()
    return repr([(each.offset, each.metadata) for each in found]).encode()
