"""Topics and subscriptions of one test on Google's fake of Pub/Sub."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
import pyarrow as pa
from google.pubsub_v1 import PublisherClient, SchemaServiceClient, SubscriberClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.schema_service.transports import SchemaServiceGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

import schemas
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.schema import Schema
from beam_jobs.io.pubsub.client import channel

Message = types.PubsubMessage.pb()


class PubSubTopics:
    """events, alerts, scores, dead: each a topic with a subscription of the same name."""

    def __init__(self, project: str, ordered: bool = False) -> None:
        self.project = project
        self._run = uuid.uuid4().hex[:8]
        self.publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel()))
        self.subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel()))
        for short in ("events", "alerts", "scores", "dead"):
            self.create(short, ordered)

    def create(self, short: str, ordered: bool = False) -> None:
        """A topic and the subscription of its name."""
        self.publisher.create_topic(name=self.publisher.topic_path(self.project, self.name(short)))
        self.subscribe(short, short, ordered)

    def subscribe(self, short: str, topic: str, ordered: bool = False) -> None:
        """Another subscription to a topic."""
        path = self.publisher.topic_path(self.project, self.name(topic))
        request = {"name": self.subscription(short), "topic": path, "enable_message_ordering": ordered}
        self.subscriber.create_subscription(request=request | {"ack_deadline_seconds": 10})

    def name(self, short: str) -> str:
        return f"{short}-{self._run}"

    def uri(self, short: str) -> str:
        return f"pubsub://{self.project}/{self.name(short)}"

    def subscription(self, short: str) -> str:
        return f"projects/{self.project}/subscriptions/{self.name(short)}"

    def send(
        self,
        short: str,
        values: Sequence[bytes],
        attributes: Mapping[str, str] | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[str]:
        """Publishes in order; the message ids."""
        topic = self.publisher.topic_path(self.project, self.name(short))
        ids: list[str] = []
        for start in range(0, len(values), 1000):
            messages = [
                Message(data=value, attributes=attributes or {}, ordering_key=keys[start + i] if keys else "")
                for i, value in enumerate(values[start : start + 1000])
            ]
            request = types.PublishRequest.wrap(types.PublishRequest.pb()(topic=topic, messages=messages))
            ids += self.publisher.publish(request=request).message_ids
        return ids

    def messages(self, short: str) -> list[Any]:
        """Everything the subscription holds, acknowledged."""
        found: list[Any] = []
        while received := self.pull(short):
            found += received
        return found

    def pull(self, short: str) -> list[Any]:
        """Some of what the subscription holds, 1,000 at most, acknowledged."""
        request = {"subscription": self.subscription(short), "max_messages": 1000}
        received = self.subscriber.pull(request=request, timeout=10).received_messages
        if received:
            ids = [entry.ack_id for entry in received]
            self.subscriber.acknowledge(subscription=self.subscription(short), ack_ids=ids)
        return [entry.message for entry in received]

    def left(self, short: str) -> int:
        """Messages that nobody has acknowledged, leased ones too."""
        return len(self.messages(short))

    def read(self, short: str, schema: str) -> list[dict[str, Any]]:
        """As :meth:`messages`, decoded."""
        reader = schemas.load(schema)
        values = pa.array([message.data for message in self.messages(short)], pa.binary())
        decoded = AvroDecoder(reader, lambda _: reader).decode(values)
        assert len(decoded.errors) == 0
        return list(decoded.rows.to_pylist())

    def schema(self, definition: Schema) -> str:
        """Makes a Pub/Sub schema; its name with the revision."""
        client = SchemaServiceClient(transport=SchemaServiceGrpcTransport(channel=channel()))
        made = client.create_schema(
            parent=f"projects/{self.project}",
            schema=types.Schema(type_=types.Schema.Type.AVRO, definition=json.dumps(definition)),
            schema_id=self.name("schema"),
        )
        return f"{made.name}@{made.revision_id}"

    @staticmethod
    def avro_json(definition: Mapping[str, Any], rows: pa.RecordBatch) -> list[bytes]:
        """Avro's JSON of each row, by fastavro."""
        texts = []
        for row in rows.to_pylist():
            out = io.StringIO()
            fastavro.json_writer(out, definition, [row])
            texts.append(out.getvalue().encode())
        return texts
