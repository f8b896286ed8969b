"""A source: what a job reads, whatever the bus. A bus overrides what it can say more about than the defaults here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeVar

import apache_beam as beam

from beam_jobs.block import Block
from beam_jobs.codec.avro.writers import NamedSchema
from beam_jobs.errors import UserError
from beam_jobs.io.address import Address
from beam_jobs.io.block_reader import BlockSettings

T = TypeVar("T")


class Checks(Protocol):
    """Questions before a job starts, where this machine may not reach who is asked (``preflight.reach.Preflight``)."""

    @property
    def timeout_s(self) -> float:
        """How long an answer is waited for, seconds."""

    def ask(self, place: str, what: str, question: Callable[[], T]) -> T | None:
        """The answer; None where none is to be had from here."""

    def say(self, text: str) -> None:
        """Tells the user a line."""


@dataclass(frozen=True)
class Wanted:
    """What a job asks of a bus, as its command line says it."""

    default_group: str  # for the group, or a topic's subscription, where --group_id gives none
    options: Mapping[str, Any]  # of the command line, by name: a bus looks at its own, and at no others
    start_from: str | None = None  # --from
    until: str | None = None
    group_id: str | None = None
    # Whether what was read is committed, or acknowledged, even where no group is named; None: as the bus has it.
    keep_position: bool | None = None
    blocks: BlockSettings = BlockSettings()


class StreamId(Protocol):
    """What the positions of a stream are remembered under: of two topics of one name, one after the other, they differ.

    Picklable, without secrets.
    """

    @property
    def name(self) -> str:
        """The topic's."""

    @property
    def is_known(self) -> bool:
        """False: it could not be asked for where the job was started."""

    def known(self) -> Self:
        """With its id, on a worker.

        Raises:
          UserError: it is not to be had.
        """

    def positions(self) -> str:
        """What offsets are remembered under: the name, or NAME#ID where the bus tells topics of one name apart."""

    def check(self) -> None:
        """Refuses to go on once the stream is another one; a bus that doesn't answer is asked the next time.

        Raises:
          UserError: it is.
        """


class Beginning(NamedTuple):
    """Where a partition is to be read again from."""

    offset: int
    short: bool  # records before it may be as young, and are no longer there


class Log(Protocol):
    """The records of a stream whose partitions keep them in order; picklable, without secrets.

    Its methods wait for brokers that are away.
    """

    def begin(self, times_ms: Mapping[int, int]) -> dict[int, Beginning]:
        """Partition -> where all its records of a time (milliseconds) or later, of those that are there, lie behind.

        Raises:
          UserError: access is denied, the topic is gone, or the job is to end.
        """

    def newest(self, records: int) -> Iterator[Block]:
        """About so many records, the newest ones of each partition that can be read, as ``read`` gives them."""

    def delete_before(self, offsets: Mapping[int, int]) -> None:
        """Has the records before these offsets deleted, which nobody needs; a cluster that refuses keeps them."""

    def read(self, spans: Mapping[int, tuple[int, int]]) -> Iterator[Block]:
        """The records between two offsets of each partition, as raw blocks with their stretches.

        Raises:
          RetryError: they are not there as they were; the reader will say why.
          UserError: the job is to end.
        """


@dataclass(frozen=True)
class MessageIds:
    """Offsets that are ids without an order, and how long one may come again."""

    stream: str  # what ``io.acknowledged`` tells of them under
    topic: str  # in the blocks' topic column
    unacknowledged_s: float  # as long as the service keeps a message
    acknowledged_s: float  # once it has taken the acknowledgement: late copies of it


class Source(ABC):
    """A stream, or files, that a job reads, checked; a frozen dataclass, picklable, without secrets."""

    bus: ClassVar[str]  # as people call it: "Kafka"
    address: Address | None  # what is read; None: files

    @abstractmethod
    def read(self) -> beam.PTransform:
        """Blocks, of what ``gives`` says."""

    @abstractmethod
    def describe(self) -> str:
        """What is read, as a person reads it: "reading kafka://… from earliest"."""

    @property
    def gives(self) -> Literal["records", "events", "features"]:
        """Raw blocks as they left the broker, or rows that were decoded, or preprocessed, before."""
        return "records"

    @property
    def live(self) -> bool:
        """Whether it has no end: the job runs until it is stopped."""
        return False

    @property
    def keeps_position(self) -> bool:
        """Whether what is read is committed, or acknowledged, and counted as such in this process."""
        return False

    @property
    def input_files(self) -> int:
        """How many files are read, where it is files."""
        return 0

    @property
    def revision_schema(self) -> NamedSchema | None:
        """Where the schemas of Avro without a frame come from, by name and revision; None: the bus has none."""
        return None

    def share(self, number: int, count: int) -> Source:
        """What process ``number`` of ``count`` reads, so that together they read everything once.

        Raises:
          UserError: it can't be divided.
        """
        if count > 1:
            raise UserError(f"--direct_num_workers={count}: one process reads {self.bus}; leave it out")
        return self

    def feed(self, checks: Checks) -> Address | None:
        """The topic whose records are read, for a job must not feed itself; None: not known from here, or none."""
        return self.address

    def resumed(self) -> Source:
        """The same for a job that goes on where one before it stopped.

        Where the position is not kept any more, it begins with the first record: the end would leave a gap.
        """
        return self

    def keyed(self) -> Source:
        """The same for a job that needs the records of a key in one partition for good."""
        return self

    def log(self) -> Log | None:
        """How what was read before is read again, for windows; None: it can't be."""
        return None

    def stream_id(self, checks: Checks) -> StreamId | None:
        """What positions are remembered under; None: the topic's name."""
        return None

    def message_ids(self, checks: Checks, before_us: bool) -> MessageIds | None:
        """How message ids are remembered; None: positions have an order, and ranges of them say what was read.

        Args:
          before_us: the runner acknowledges messages before we see them, and drops what comes again.
        """
        return None

    def check_beside(self, checks: Checks, others: Collection[str], where: str) -> None:  # noqa: B027, most refuse nothing
        """Refuses to be written beside what was read of the streams called ``others``, if those are the same records.

        Args:
          where: for the error, "--output FOLDER".

        Raises:
          UserError: as above.
        """

    def check_selection(self, flag: str) -> None:  # noqa: B027, likewise
        """Refuses to have only some of the records used where that takes the others away from everybody.

        Args:
          flag: that selects them.

        Raises:
          UserError: as above.
        """

    def nothing_left(self) -> str:
        """What to say, and what to do, where nothing was left to be read."""
        return f"nothing is left on {self.address}"
