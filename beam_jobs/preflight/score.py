"""What ``score`` needs, checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from apache_beam.options.pipeline_options import PipelineOptions

import schemas
from beam_jobs.errors import UserError
from beam_jobs.io.sink import Sink
from beam_jobs.io.source import Source
from beam_jobs.io.webhook import OPTION, SECRET_OPTION, WebhookSettings
from beam_jobs.preflight.addresses import (
    archive_input,
    block_settings,
    check_clients,
    event_settings,
    output_id,
    prepare_outputs,
    schema_source,
    sink,
    stream_source,
    window_settings,
)
from beam_jobs.preflight.kept_log import check_kept_log, history_of_log
from beam_jobs.preflight.reach import Preflight
from beam_jobs.preflight.second_topic import SecondTopic, second_topic
from beam_jobs.preflight.workers import (
    check_key,
    check_path,
    check_pii_key,
    dead_letter_payload,
    dead_letter_rate,
    warn_if_cleaned,
)
from beam_jobs.preprocessing.preprocessor import Preprocessor
from beam_jobs.preprocessing.told import check_told
from beam_jobs.steps.alerting.budget import AlertBudget
from beam_jobs.steps.alerting.cooldown import SharedCoolDown, from_option
from beam_jobs.steps.decode import EventSettings
from beam_jobs.steps.payload import Payload
from beam_jobs.steps.windows import WindowSettings
from beam_jobs.target import target_of
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import require, say
from beam_jobs.terminal.commands import JOBS
from beam_jobs.use_case import UseCase, load_use_case
from model.manifest import check_fingerprint
from model.registry import ModelVersion, resolve
from schemas.source import SchemaId, SchemaSource


@dataclass(frozen=True)
class ScoreJob:
    """The validated options of ``score``, as its wiring takes them."""

    name: str  # "score/USE_CASE": in dead letters and in the consumer group's name
    use_case: UseCase
    preprocessor: Preprocessor
    model: ModelVersion
    source: Source
    writers: SchemaSource  # writer schemas by id
    alerts: Sink
    scores: Sink | None
    dead_letters: Sink
    max_dead_letter_rate: float
    payload: Payload  # of dead letters
    schema_ids: dict[str, SchemaId]  # of the outputs in Avro, by the schema's file name
    events: EventSettings = field(default_factory=EventSettings)
    windows: WindowSettings = field(default_factory=WindowSettings)
    budget: AlertBudget | None = None  # of alerts, of one process; None: the model's threshold decides
    cooldown: SharedCoolDown | None = None  # after an alert of a key; None: none is kept back
    alerts_also: Sink | None = None  # a second topic for all alerts
    webhook: WebhookSettings | None = None  # an URL for all alerts
    second: SecondTopic | None = None  # where the SQL has windows by two keys
    own_process: bool = True  # all its steps run in this process, or each of its shares in one


def alert_budget(parsed: PipelineOptions) -> AlertBudget | None:
    """What one process of the job may spend of --alert_budget; None: there is none.

    Raises:
      UserError: it is no budget, or nobody knows how many processes will share it.
    """
    text = parsed.view_as(options.ScoreOptions).alert_budget
    if not text:
        return None
    budget, target = AlertBudget.parse(text), target_of(parsed).describe()
    if budget.per == "time" and not target.here:
        raise UserError(
            f"--alert_budget {text}: workers come and go there, and each keeps a budget of its own; give one that "
            "adds up, such as 1/1000 or 5/1000keys"
        )
    return budget.share(target.processes)


def webhook(preflight: Preflight) -> WebhookSettings | None:
    """Where --alert_webhook says that alerts are posted; None: nowhere. Nobody is asked yet.

    Raises:
      UserError: it is no URL, or the secret can't be read, here or on the workers.
    """
    wanted = preflight.parsed.view_as(options.ScoreOptions)
    if not wanted.alert_webhook:
        if wanted.alert_webhook_secret:
            raise UserError(f"{SECRET_OPTION} is for {OPTION}; add that, or leave the secret out")
        return None
    if not wanted.alert_webhook_secret:
        raise UserError(f"{OPTION} needs {SECRET_OPTION}, by which the receiver knows whose alerts they are")
    settings = WebhookSettings(wanted.alert_webhook, wanted.alert_webhook_secret)
    for flag, reference in ((OPTION, settings.url), (SECRET_OPTION, settings.secret)):
        check_key(preflight, flag, reference)
    preflight.ask(f"{SECRET_OPTION} {settings.secret}", "the secret of the webhook", settings.check)
    return settings


def score_job(parsed: PipelineOptions) -> ScoreJob:
    """Checks the options of ``score``, and that what they name is there and fits together.

    Raises:
      UserError: the first thing that is wrong, with its remedy.
    """
    require(parsed.get_all_options(), *JOBS["score"].required)
    wanted = parsed.view_as(options.ScoreOptions)
    bad = parsed.view_as(options.DeadLetterOptions)
    max_dead_letter_rate = dead_letter_rate(parsed)
    use_case = load_use_case(parsed.view_as(options.UseCaseOptions).use_case)
    use_case = use_case.with_lateness(parsed.view_as(options.WindowOptions).get_all_options())
    preprocessor = use_case.preprocessor()
    check_told(use_case.story, preprocessor.features, f"use case {use_case.name}")
    preflight, budget = Preflight(parsed), alert_budget(parsed)
    cooldown = SharedCoolDown(from_option(wanted.alert_cooldown)) if wanted.alert_cooldown else None
    check_pii_key(preflight, preprocessor)
    payload = dead_letter_payload(preflight, writes=True)
    check_path(parsed, "--model", wanted.model, in_image=True)
    model = resolve(wanted.model, use_case.name, wanted.model_key)
    warn_if_cleaned(parsed, "--model", model.folder)
    described = model.manifest
    check_fingerprint(described, preprocessor)
    outputs = {"alert": sink(parsed, wanted.alerts), "dead_letter": sink(parsed, bad.dead_letters)}
    if wanted.scores:
        outputs["score"] = sink(parsed, wanted.scores)
    if wanted.alerts_also:
        outputs["alerts_also"] = sink(parsed, wanted.alerts_also)
        if outputs["alerts_also"].address == outputs["alert"].address:
            raise UserError(f"--alerts_also {wanted.alerts_also}: alerts go there already; each would come twice")
    hook, traits = webhook(preflight), target_of(parsed).describe()
    name = f"score/{use_case.name}"
    given = parsed.view_as(options.InputOptions)
    archive = archive_input(given, use_case)
    settings = check_clients(parsed)
    source = archive or stream_source(preflight, name, block_settings(given))
    windows, second = WindowSettings(), None
    if source.gives != "features":
        windows = window_settings(parsed, preprocessor, source)
        source = source.keyed() if preprocessor.windows else source
        check_kept_log(preflight, source, history_of_log(preprocessor), windows)
        second = second_topic(preflight, use_case, source)
    prepare_outputs(preflight, outputs.values(), source)
    writers = schema_source(preflight, use_case.schema, settings, source)
    say(writers.describe())
    say(source.describe())
    if described.few_rows:
        say(f"warning: {described.few_rows}")
    above = f"above a score of {described.threshold:.4g}" if budget is None else f"{wanted.alert_budget} at most"
    if hook is not None:
        say(f"alerts are posted to {hook.host} as well")
    say(f"model {described.name} {described.version}, alerts {above}")
    return ScoreJob(
        name=name,
        use_case=use_case,
        preprocessor=preprocessor,
        model=model,
        source=source,
        writers=writers,
        alerts=outputs["alert"],
        scores=outputs.get("score"),
        dead_letters=outputs["dead_letter"],
        max_dead_letter_rate=max_dead_letter_rate,
        events=event_settings(parsed),
        windows=windows,
        budget=budget,
        cooldown=cooldown,
        alerts_also=outputs.get("alerts_also"),
        webhook=hook,
        second=second,
        own_process=traits.here and not traits.java,
        payload=payload,
        schema_ids={
            # In a registry a schema has one id, whatever its subjects: alerts are encoded once.
            n: output_id(preflight, writers, to.address, schemas.load("alert" if n == "alerts_also" else n))
            for n, to in outputs.items()
            if wanted.alerts_format != "json" or n not in ("alert", "alerts_also")
        },
    )
