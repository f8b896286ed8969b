import pytest

from beam_jobs import options
from beam_jobs.errors import UserError

CONCERNS = (options.InputOptions, options.ScoreOptions)


def parse(*argv: str) -> options.PipelineOptions:
    return options.parse("python -m job", "A job.", argv, *CONCERNS)


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


def test_require_names_every_missing_flag() -> None:
    with pytest.raises(UserError, match="missing --use_case, --model"):
        options.require(parse("--input", "kafka://h:1/t"), "input", "use_case", "model")


def test_help_shows_the_jobs_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "--group_id" in text
    assert "Where events come from" in text
