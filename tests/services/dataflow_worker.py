"""A fake of a Dataflow worker: loads all that a staged pipeline names, and lets some elements through every DoFn.

    python dataflow_worker.py pipeline.pb messages.json > report.json

For an interpreter that has the staged package, as a worker has, and not the checkout. Steps run one after the other,
each on all that came before it; a source gives what it has to give within some seconds. messages.json: the bodies of
the Pub/Sub messages that come in, base64.
"""

from __future__ import annotations

import base64
import inspect
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from apache_beam import DoFn
from apache_beam.internal import pickler
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.io.unbounded_source import _ReadFromUnboundedSourceDoFn
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.pvalue import TaggedOutput
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.transforms.core import CallableWrapperDoFn, DoFnInfo
from apache_beam.transforms.window import GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

READ, WRITE = "beam:transform:pubsub_read:v1", "beam:transform:pubsub_write:v1"
FIRST_S, REST_S = 20.0, 3.0  # how long a source may take for its first block, and for those after it


def leaves(pipeline: api.Pipeline) -> list[Any]:
    """The transforms that do something and have no parts, each behind those that it reads from."""
    transforms = pipeline.components.transforms.values()
    waiting = [t for t in transforms if not t.subtransforms and set(t.outputs.values()) != set(t.inputs.values())]
    there: set[str] = set()
    ordered: list[Any] = []
    while waiting:
        ready = [t for t in waiting if set(t.inputs.values()) <= there]
        assert ready, [t.unique_name for t in waiting]
        for transform in ready:
            waiting.remove(transform)
            there.update(transform.outputs.values())
        ordered += ready
    return ordered


class FakeWorker:
    """Runs a pipeline's transforms in their order."""

    def __init__(self, pipeline: api.Pipeline, messages: list[bytes]) -> None:
        self._pipeline, self._messages = pipeline, messages
        self._context = PipelineContext(pipeline.components)
        self._elements: dict[str, list[Any]] = defaultdict(list)  # of each PCollection
        self.report: dict[str, Any] = {"steps": {}, "classes": {}, "readers": 0, "published": []}

    def run(self) -> None:
        for coder in self._pipeline.components.coders:
            self._context.coders[coder]
        for transform in leaves(self._pipeline):
            taken = [element for name in transform.inputs.values() for element in self._elements[name]]
            given = 0
            for tag, element in self._outputs(transform, taken):
                self._elements[transform.outputs[tag]].append(self._over_the_wire(transform.outputs[tag], element))
                given += 1
            self.report["steps"][transform.unique_name] = [len(taken), given]

    def _outputs(self, transform: Any, taken: list[Any]) -> Iterator[tuple[str, Any]]:
        main = next(iter(sorted(transform.outputs, key=lambda tag: tag not in ("None", "good"))), "")
        urn = transform.spec.urn
        if urn == common_urns.primitives.IMPULSE.urn:
            yield main, b""
        elif urn == READ:
            now = Timestamp.now().to_utc_datetime()
            for i, data in enumerate(self._messages):
                message = PubsubMessage(data, {}, message_id=str(1000 + i), publish_time=now)
                yield main, message._to_proto_str(for_publish=False)
        elif urn == WRITE:
            self.report["published"] += [base64.b64encode(data).decode() for data in taken]
        elif urn == common_urns.primitives.PAR_DO.urn:
            payload = api.ParDoPayload.FromString(transform.spec.payload)
            data = DoFnInfo.from_runner_api(payload.do_fn, self._context).serialized_dofn_data()
            function, args, kwargs, _, _ = pickler.loads(data)
            self.report["classes"][transform.unique_name] = _where(function)
            if payload.state_specs:  # Beam's GroupIntoBatches
                yield from ((main, group) for group in _by_key(taken))
                return
            for element in self._through(function, args, kwargs, taken):
                tag = element.tag if isinstance(element, TaggedOutput) else main
                while isinstance(element, (TaggedOutput, TimestampedValue, WindowedValue)):
                    element = element.value
                yield tag, element
        elif urn in (common_urns.primitives.FLATTEN.urn, "beam:transform:reshuffle:v1"):
            for element in taken:
                yield main, element
        else:
            raise AssertionError(f"{transform.unique_name}: {urn} is not known here")

    def _through(self, function: DoFn, args: Any, kwargs: Any, taken: list[Any]) -> Iterator[Any]:
        if isinstance(function, _ReadFromUnboundedSourceDoFn):
            for source in taken:
                yield from self._read(source)
            return
        function.setup()
        function.start_bundle()
        for element in taken:
            yield from self._results(function.process, element, *args, **kwargs)
        yield from function.finish_bundle() or ()
        function.teardown()

    @staticmethod
    def _results(process: Any, element: Any, *args: Any, **kwargs: Any) -> Iterable[Any]:
        for name, parameter in inspect.signature(process).parameters.items():
            if parameter.default is DoFn.TimestampParam:
                kwargs[name] = Timestamp.now()
            elif parameter.default is DoFn.WindowParam:
                kwargs[name] = GlobalWindow()
        return process(element, *args, **kwargs) or ()

    def _read(self, source: Any) -> Iterator[Any]:
        """What the readers of a source have, until each has given a block or is through."""
        parts = source.split(20)
        self.report["readers"] += len(parts)
        readers = {id(part): part.create_reader(None, None) for part in parts}
        open_ = set(readers)
        deadline = monotonic() + FIRST_S
        while open_ and monotonic() < deadline:
            for key in list(open_):
                if readers[key].advance():
                    deadline = min(deadline, monotonic() + REST_S)
                    yield readers[key].get_current()
                if readers[key].get_watermark() >= MAX_TIMESTAMP:
                    open_.discard(key)
        for part, reader in zip(parts, readers.values(), strict=True):
            mark = part.get_checkpoint_mark_coder()
            assert mark.decode(mark.encode(reader.get_checkpoint_mark())) == reader.get_checkpoint_mark()
            reader.close()

    def _over_the_wire(self, name: str, element: Any) -> Any:
        """As it comes out where two steps are not fused."""
        coder = self._context.coders[self._pipeline.components.pcollections[name].coder_id]
        return coder.decode(coder.encode(element))


def _by_key(pairs: list[tuple[Any, Any]]) -> Iterator[tuple[Any, list[Any]]]:
    groups = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    yield from groups.items()


def _where(function: DoFn) -> str:
    """The file that a DoFn, or the function in it, comes from."""
    if isinstance(function, CallableWrapperDoFn):
        return str(function._fn.__code__.co_filename) if inspect.isfunction(function._fn) else ""
    return str(inspect.getsourcefile(type(function)))


def main(pipeline: str, messages: str) -> None:
    pickler.set_library("cloudpickle")
    given = [base64.b64decode(text) for text in json.loads(Path(messages).read_text())]
    worker = FakeWorker(api.Pipeline.FromString(Path(pipeline).read_bytes()), given)
    worker.run()
    ours = ("beam_jobs", "model", "schemas", "use_cases", "demo")
    worker.report["modules"] = {
        name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in ours
    }
    worker.report["tensorflow"] = "tensorflow" in sys.modules
    print(json.dumps(worker.report))


if __name__ == "__main__":
    main(*sys.argv[1:])
