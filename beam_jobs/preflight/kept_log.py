"""Whether a topic keeps the records that windows are rebuilt from."""

from __future__ import annotations

from functools import partial

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.client import topic_settings
from beam_jobs.io.kafka.transforms import KafkaInput
from beam_jobs.io.source import Source
from beam_jobs.preflight.reach import Preflight
from beam_jobs.preprocessing.preprocessor import Preprocessor
from beam_jobs.preprocessing.query.intervals import to_text
from beam_jobs.preprocessing.stages import QueryHistory
from beam_jobs.steps.windows import WindowSettings


def check_kept_log(preflight: Preflight, source: Source, history: QueryHistory | None, kept: WindowSettings) -> None:
    """Refuses a topic of which records vanish that windows still need; of its retention it warns: it may be too short.

    Args:
      history: of the windows that are rebuilt from it; None: there are none.

    Raises:
      UserError: the topic is compacted, and ``--short_history`` does not say that this is known.
    """
    if history is None or not isinstance(source, KafkaInput):
        return
    address = source.address
    question = partial(topic_settings, address, source.config, preflight.timeout_s)
    settings = preflight.ask(address.place, f"the settings of topic {address.topic}", question) or {}
    if "compact" in settings.get("cleanup.policy", ""):
        text = (
            f"{address}: its cleanup.policy is {settings['cleanup.policy']}, which leaves of each key the last record, "
            "and windows need all of them"
        )
        if kept.on_short == "refuse":
            raise UserError(
                f"{text}; set cleanup.policy=delete, or bring the events to a topic that keeps them; "
                "--short_history warn goes on with what is there"
            )
        preflight.say(f"warning: {text}: features lack what was removed")
    retention_ms = int(settings.get("retention.ms", "-1"))
    if 0 <= retention_ms * 1000 < history.reach_us:
        preflight.say(
            f"warning: {address}: its retention.ms is {retention_ms} ({to_text(retention_ms * 1000)}), and windows "
            f"are rebuilt from {to_text(history.reach_us)}: a restart will lack what was deleted by then; raise it"
        )


def history_of_log(preprocessor: Preprocessor) -> QueryHistory | None:
    """What is rebuilt from the topic of the events, at its start; None: nothing."""
    return preprocessor.history() if preprocessor.second_key is None else preprocessor.legs().before()
