import argparse
from collections.abc import Iterator
from typing import Any

import pytest

from beam_jobs.errors import UserError
from beam_jobs.terminal import flags, options
from beam_jobs.terminal.cli import require
from beam_jobs.terminal.commands import JOBS, Command

JOB = Command("job", "job", "A job", flags=(flags.Input, flags.Score, flags.Archive), required=("input", "model"))


def parse(*argv: str) -> options.PipelineOptions:
    return options.parse(JOB.parser(), argv)


def test_values_reach_their_class() -> None:
    parsed = parse("--input", "kafka://h:1/t", "--from=earliest", "--use_case", "car_sensors")
    assert parsed.view_as(options.InputOptions).start_from == "earliest"
    assert parsed.view_as(options.UseCaseOptions).use_case == "car_sensors"


def test_beam_options_pass() -> None:
    assert parse("--runner=PrismRunner", "--job_name", "x").get_all_options()["job_name"] == "x"


def test_a_typo_is_refused_with_the_nearest_option() -> None:
    with pytest.raises(UserError, match=r"unknown option --use_cases; did you mean --use_case\?"):
        parse("--use_cases", "car_sensors")


def test_a_stray_word_is_refused() -> None:
    with pytest.raises(UserError, match="'car_sensors' is not an option"):
        parse("car_sensors")


def test_a_wrong_choice_is_a_user_error() -> None:
    with pytest.raises(UserError, match="invalid choice: 'fast'"):
        parse("--fetch", "fast")


@pytest.mark.parametrize("word", ["--max_num_workers=many", "--transform_name_mapping=old:new", "--streaming=maybe"])
def test_a_value_that_beam_refuses_is_a_user_error(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=word.partition("=")[0]):
        parse(word)
    assert capsys.readouterr().err == ""


def test_require_names_every_missing_flag() -> None:
    with pytest.raises(UserError, match="missing --use_case, --model"):
        require(parse("--input", "kafka://h:1/t").get_all_options(), "input", "use_case", "model")


def test_help_shows_the_jobs_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "--group_id" in text
    assert "Where events come from" in text


@pytest.mark.parametrize(
    ("words", "raw", "public_ips"),
    [
        (["--raw=true", "--use_public_ips=true"], True, True),
        (["--raw=TRUE", "--use_public_ips=false"], True, False),
        (["--raw=false", "--no_use_public_ips=true"], False, False),
        (["--no_use_public_ips=false"], False, True),
        (["--raw"], True, None),
    ],
)
def test_switches_take_a_value_as_templates_give_one(words: list[str], raw: bool, public_ips: bool | None) -> None:
    parsed = options.parse(JOB.parser(), words).get_all_options()
    assert parsed["raw"] is raw
    assert parsed["use_public_ips"] is public_ips


def test_beam_reads_the_same_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--enable_streaming_engine=true", "--labels=", "--job_name", ""]
    monkeypatch.setattr("sys.argv", ["score.py", *words])
    parse(*words)
    assert options.PipelineOptions().get_all_options()["job_name"] is None
    assert options.PipelineOptions().get_all_options()["enable_streaming_engine"] is True


def options_of(job: Command) -> Iterator[argparse.Action]:
    yield from (action for action in job.parser()._actions if action.dest != "help")


@pytest.mark.parametrize(
    ("job", "flag", "takes_value"),
    [
        pytest.param(job, action.option_strings[0], action.nargs != 0, id=f"{job.name} {action.option_strings[0]}")
        for job in JOBS.values()
        for action in options_of(job)
    ],
)
def test_an_empty_option_is_not_given(job: Command, flag: str, takes_value: bool) -> None:
    def read(*words: str) -> dict[str, Any]:
        return dict(options.parse(job.parser(), words).get_all_options())

    assert read(f"{flag}=") == read(f"{flag}= ") == read()
    if takes_value:
        assert read(flag, "") == read(flag, "", "--use_case=x", "--use_case=") | {"use_case": None} == read()


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda job: job.name)
def test_so_is_an_empty_option_of_beams(job: Command) -> None:
    every = options._every_option()._option_string_actions
    assert {"--direct_num_workers", "--labels", "--job_name", "--experiments", "--no_auth"} <= set(every)
    for words in ([f"{flag}=" for flag in every], [w for f, a in every.items() if a.nargs != 0 for w in (f, "")]):
        read = options.parse(job.parser(), words)
        assert read.get_all_options() == options.parse(job.parser(), []).get_all_options()


def test_an_empty_option_that_nobody_knows_is_unknown() -> None:
    with pytest.raises(UserError, match=r"unknown option --use_cases; did you mean --use_case\?"):
        parse("--use_cases=")


def test_a_value_given_elsewhere_stays() -> None:
    assert parse("--use_case=cars", "--use_case=").get_all_options()["use_case"] == "cars"


def test_true_stays_the_value_of_an_option_that_takes_one() -> None:
    assert parse("--use_case=true").get_all_options()["use_case"] == "true"


def test_a_switch_takes_no_other_value() -> None:
    with pytest.raises(UserError, match="--raw"):
        parse("--raw=yes")


def test_a_template_launcher_may_pass_what_this_beam_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    parsed = parse("--template_location=gs://b/o", "--from_next_year=1", "--use_case=car_sensors")
    assert parsed.get_all_options()["use_case"] == "car_sensors"
    assert "unknown option --from_next_year left out" in capsys.readouterr().err
