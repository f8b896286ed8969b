"""The archive sink and source: event-time partitions of Avro or Parquet files, each row in exactly one of them.

Which folder a row belongs to: ``layout.py``. What makes a file count, and why a retry makes no second copy: ``log.py``.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs import metrics
from beam_jobs.archives.files import BundleFiles, FileFormat, OpenFile
from beam_jobs.archives.gather import GatherBlocks
from beam_jobs.archives.held import Held, Ranges
from beam_jobs.archives.layout import Layout, find_layout, keep_layout
from beam_jobs.archives.log import ArchiveLog, Finished, new_id
from beam_jobs.archives.owner import Owner, join
from beam_jobs.archives.rows import SOURCE_KEY, Content, archive_rows, archive_schema, other_keys
from beam_jobs.block import SOURCE_PREFIX, Block, millis_of, take
from beam_jobs.expiring_ids import ExpiringIds
from beam_jobs.io import acknowledged
from beam_jobs.io.source import MessageIds, StreamId
from beam_jobs.storage.files import is_local, make_folder, name_bytes, patiently, root_of, upload, writing
from beam_jobs.target import target_of
from beam_jobs.use_case import UseCase

_LOGGER = logging.getLogger(__name__)
_OTHER_KEYS = "some records have another key than %s: the archive holds that field instead (--keep_keys keeps the keys)"

_FILE_NAME_BYTES = 60  # part-BUNDLE-NUMBER.parquet
_MAX_FILES = 1_000  # of a commit, where there can be one at any time
_MANY_FOLDERS, _FEW_ROWS = 16, 1_000  # more folders than that in a block, of fewer rows each: blocks are gathered first
_GATHERED_BYTES = 32 << 20

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class ArchiveSettings:
    """What is written to an archive, and how; picklable."""

    root: str  # the archive's folder, as ``files.root_of`` gives it
    name: str  # of this job in the archive's log
    schema: Mapping[str, Any]  # the rows' Avro schema (``archive_rows.archive_schema``)
    event_time: str  # column of the event's time
    file_format: FileFormat = "avro"
    compression: str = "deflate"  # one of the format's ``COMPRESSIONS``
    layout: Layout = field(default_factory=Layout)  # of the folders; it is settled already (``keep_layout``)
    max_file_bytes: int = 128_000_000  # a file that has reached it is followed by another one
    stream: StreamId | None = None  # that is read; its positions are not those of a topic of the same name before it
    # The rows come in any order (from another archive), not as unbroken ranges of each partition: the archive remembers
    # their exact positions, takes each position once, and a bundle, which may be the whole input, commits now and then.
    exact: bool = False
    max_file_age_s: float = 60.0  # how often it does, at least
    # The field whose text stands for the keys of records in an archive of events; None: they are kept.
    key: str | None = None
    ids: MessageIds | None = None  # None where offsets have an order and ranges of them say what was read
    owner: Owner = field(default_factory=Owner)  # of the log; somebody new, where nobody has written to the folder

    @staticmethod
    def of(use_case: UseCase, content: Content, folder: str, name: str) -> ArchiveSettings:
        """For a pipeline of one's own: rows of a use case, by a job that takes the log over from the one before it.

        Args:
          folder: the archive's, a path or ``gs://bucket/folder``.
          name: of the log, one for each topic that is archived there.

        Raises:
          UserError: what is named is no folder, or holds no archive's log where it should.
        """
        root = root_of(folder)
        owner = Owner(by_workers=True, replaces=ArchiveLog(root, name).current_owner(), waits=False)
        schema = archive_schema(use_case, content)
        layout = find_layout(root, [f["name"] for f in schema["fields"]], None, None)
        keep_layout(root, layout)
        return ArchiveSettings(root, name, schema, use_case.event_time, layout=layout, owner=owner)

    def log(self) -> ArchiveLog:
        """The log that is written to."""
        return ArchiveLog(self.root, self.name, self.owner.token)

    def positions(self, topic: str) -> str:
        """What the archive remembers a topic's offsets under."""
        return self.stream.positions() if self.stream and self.stream.name == topic else topic

    def adopted(self) -> dict[str, str]:
        """Topics by whose name alone an older log knew positions -> what they are known under now."""
        name = self.stream.name if self.stream else ""
        return {name: self.positions(name)} if self.positions(name) != name else {}


class WriteFiles(beam.DoFn):
    """Writes the rows of events or features blocks; a bundle's files count once it has committed them."""

    def __init__(self, settings: ArchiveSettings) -> None:
        self.settings = settings
        self._scratch: Path | None = None
        self._files: BundleFiles | None = None

    def setup(self) -> None:
        given = self.settings
        given = self.settings = replace(given, stream=given.stream and given.stream.known())
        self._log = given.log()
        join(self._log, given.owner, given.adopted)
        self._watched_key = given.key if SOURCE_KEY in given.schema["fields"] else None
        if given.ids is not None:
            acknowledged.listen(given.ids.stream)
        # Beside the data where that is a rename away; else on this machine until it is whole.
        self._scratch = None if is_local(given.root) else Path(tempfile.mkdtemp(prefix="highbeam-archive-"))
        self._spools = str(self._scratch or given.root)
        self._name_bytes = name_bytes(given.root)
        self._files = BundleFiles(given.schema, given.file_format, given.compression, given.max_file_bytes)

    def teardown(self) -> None:
        if self._files is not None:
            self._files.abandon()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def start_bundle(self) -> None:
        ids = self.settings.ids
        if ids is not None:
            until = time.time() + ids.acknowledged_s
            self._log.acknowledged((ids.topic, 0), acknowledged.take(ids.stream), until)
        self._held = self._log.held()
        self._start()

    def _start(self) -> None:
        self._bundle, self._since = new_id(), time.monotonic()
        assert self._files is not None
        self._files.begin(partial(self._spool, self._bundle))
        self._folders: set[str] = set()  # that are there
        self._gathered: list[Block] = []
        self._gathered_bytes = 0
        self._written = Ranges()
        self._seen_ids: dict[tuple[str, int], ExpiringIds] = {}

    def process(self, block: Block) -> None:
        block = self._new(block)
        if not block.num_rows:
            return
        if self._watched_key and other_keys(block, self._watched_key):
            _LOGGER.warning(_OTHER_KEYS, self._watched_key)
            self._watched_key = None  # once is enough
        self._write(archive_rows(block, self.settings.schema, self.settings.key))
        if self.settings.exact and self._is_enough():
            self._commit()

    def _write(self, rows: Block) -> None:
        """Writes rows of the archive to the files of their folders; a few rows for each of many wait for more."""
        groups, place, folder = self._partitioned(rows)
        if len(groups) > _MANY_FOLDERS and rows.num_rows < _FEW_ROWS * len(groups):
            self._gathered.append(rows)
            self._gathered_bytes += rows.nbytes
            if self._gathered_bytes >= _GATHERED_BYTES:
                self._write_gathered()
            return
        self._write_parts(rows, groups, place, folder)

    def _write_gathered(self) -> None:
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        if gathered:
            rows = pa.concat_batches(gathered)
            self._write_parts(rows, *self._partitioned(rows))

    def _write_parts(self, rows: Block, groups: Longs, place: Longs, folder: Callable[[int], str]) -> None:
        files = self._files
        assert files is not None
        one = len(groups) == 1
        order = np.empty(0, np.int64) if one else np.argsort(place, kind="stable")
        ends = [len(place)] if one else np.cumsum(np.bincount(place, minlength=len(groups))).tolist()
        with writing(self._spools):
            start = 0
            for group, end in zip(groups.tolist(), ends, strict=True):
                name = folder(group)
                if name not in self._folders:
                    # What can't be made, or not be written to, is found before anything is committed.
                    make_folder(f"{self.settings.root}/{name}", _FILE_NAME_BYTES)
                    self._folders.add(name)
                files.write(name, rows if one else take(rows, order[start:end]))
                start = end

    def _is_enough(self) -> bool:
        """Whether so much is open that a kill would repeat a lot, or the files become too many."""
        files = self._files
        assert files is not None
        aged = time.monotonic() - self._since >= self.settings.max_file_age_s
        return aged or files.bytes >= self.settings.max_file_bytes or len(files) >= _MAX_FILES

    def finish_bundle(self) -> None:
        self._commit()

    def _commit(self) -> None:
        self._write_gathered()
        assert self._files is not None
        with writing(self._spools):
            closed = self._files.finish()
        if closed:
            if self.settings.stream:
                self.settings.stream.check()
            held = Held(self._written if self.settings.exact else self._written.spans(), self._seen_ids)
            with writing(self.settings.root):
                files = [self._finished(file) for file in closed]
                self._held = self._log.commit(self._bundle, files, held)
            metrics.inc(metrics.ARCHIVED, sum(file.rows for file in files))
            metrics.inc(metrics.ARCHIVED_FILES, len(files))
        self._start()

    def _new(self, block: Block) -> Block:
        """Without the rows the archive has already; notes the positions of the others."""
        topics, partitions, offsets = (block.column(SOURCE_PREFIX + name) for name in ("topic", "partition", "offset"))
        names, offsets = [self.settings.positions(name) for name in topics.dictionary.to_pylist()], offsets.to_numpy()
        groups = partitions.to_numpy() + (topics.indices.to_numpy().astype(np.int64) << 32)
        keep = np.ones(len(offsets), np.bool_)
        for group in np.unique(groups).tolist():
            partition = names[group >> 32], group & 0xFFFFFFFF
            here = np.flatnonzero(groups == group)
            mine = offsets[here]
            known = self._held.holds(partition, mine)
            if self.settings.ids is not None:
                known = self._note_ids(partition, mine, known, self.settings.ids.unacknowledged_s)
            elif self.settings.exact:
                known |= self._written.holds(partition, mine) | ~_firsts(mine)
            keep[here] = ~known
            if self.settings.ids is None and not known.all():
                made = Ranges.exactly if self.settings.exact else Ranges.span
                self._written |= made(partition, mine[~known])
        if keep.all():
            return block
        metrics.inc(metrics.ALREADY_ARCHIVED, int((~keep).sum()))
        return take(block, np.flatnonzero(keep))

    def _note_ids(
        self, partition: tuple[str, int], ids: Longs, known: NDArray[np.bool_], keep_s: float
    ) -> NDArray[np.bool_]:
        """Which ids came before, in this bundle too; notes the others."""
        noted = self._seen_ids.setdefault(partition, ExpiringIds())
        known = known | noted.holds(ids) | ~_firsts(ids)
        now = time.time()
        noted.add(ids[~known], int(now + keep_s), now)
        return known

    def _partitioned(self, rows: Block) -> tuple[Longs, Longs, Callable[[int], str]]:
        """The folders that rows of the archive belong to, by number; the place among them of each row; their names."""
        times = rows.column(self.settings.event_time)
        millis = millis_of(times)
        if times.null_count:  # raw events are not checked: the record's own time stands in
            millis = np.where(times.is_null(), millis_of(rows.column("source_timestamp")), millis)
        route = self.settings.layout.route_by
        routes = None if route is None else rows.column(route).cast(pa.string())
        return self.settings.layout.divided(millis, routes, self._name_bytes)

    def _spool(self, bundle: str, number: int) -> Path:
        """Where a file is written."""
        path = Path(self._log.temporary(bundle, number))
        return path if self._scratch is None else self._scratch / path.name

    def _finished(self, file: OpenFile) -> Finished:
        """Brings a file to the archive's storage, where it is not there yet."""
        temporary = self._log.temporary(self._bundle, file.number)
        if self._scratch is not None:
            patiently(partial(upload, file.path, temporary))
            file.path.unlink()
        final = f"{self.settings.root}/{file.folder}/part-{self._bundle}-{file.number}.{self.settings.file_format}"
        return Finished(temporary, final, file.rows)


def _firsts(values: Longs) -> NDArray[np.bool_]:
    """Which of the values were not there before, bool [n]."""
    first = np.zeros(len(values), np.bool_)
    first[np.unique(values, return_index=True)[1]] = True
    return first


class WriteToArchive(beam.PTransform):
    """Writes events or features blocks to an archive; see :class:`ArchiveSettings`.

    Pub/Sub messages that the runner itself has read come in small bundles: they are gathered first.
    """

    def __init__(self, settings: ArchiveSettings) -> None:
        super().__init__()
        self._settings = settings

    def expand(self, blocks: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Any]:
        if self._settings.ids is not None and target_of(blocks.pipeline.options).describe().reads_pubsub:
            blocks = blocks | "Gather" >> GatherBlocks(self._settings.max_file_age_s)
        return blocks | "Write" >> beam.ParDo(WriteFiles(self._settings))
