import pytest

from beam_jobs.errors import UserError
from beam_jobs.io.position import EARLIEST, LATEST, OffsetKind, OffsetSpec


def test_words() -> None:
    assert OffsetSpec.parse("earliest") == EARLIEST
    assert OffsetSpec.parse(" Latest ") == LATEST


@pytest.mark.parametrize(
    ("text", "millis"),
    [
        ("1700000000000", 1_700_000_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14T23:13:20.250+01:00", 1_700_000_000_250),
        ("2023-11-14 22:13:20", 1_700_000_000_000),
        ("2023-11-14", 1_699_920_000_000),
    ],
)
def test_times(text: str, millis: int) -> None:
    assert OffsetSpec.parse(text) == OffsetSpec(OffsetKind.TIMESTAMP, timestamp_ms=millis)


def test_pairs() -> None:
    assert OffsetSpec.parse("1:250, 0:100") == OffsetSpec(OffsetKind.OFFSETS, offsets=((0, 100), (1, 250)))


@pytest.mark.parametrize("text", ["earliest", "latest", "1700000000000", "0:100,1:250"])
def test_the_text_comes_back(text: str) -> None:
    assert str(OffsetSpec.parse(text)) == text


@pytest.mark.parametrize("text", ["", "soon", "0:", "0:1,", "0:1,0:2", "-1:5", "1700000000", "2023-13-01"])
def test_nonsense(text: str) -> None:
    with pytest.raises(UserError, match="position") as raised:
        OffsetSpec.parse(text)
    assert "\n" not in str(raised.value)
