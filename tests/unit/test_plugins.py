"""Named parts: Highbeam's own, those of other distributions, and what is said of the others."""

from collections.abc import Callable
from pathlib import Path

import pytest

from beam_jobs.errors import UserError
from beam_jobs.plugins import Plugins
from tests.distribution import install

SHAPES = Plugins[float]("shape", "highbeam.test_shapes", {"circle": "math:pi"})

Install = Callable[[str, str, dict[str, str]], None]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a distribution (name, code of its only module, entry points) where Python finds it."""

    def put(name: str, code: str, shapes: dict[str, str]) -> None:
        monkeypatch.syspath_prepend(install(tmp_path / name, name, code, {"highbeam.test_shapes": shapes}))

    return put


def test_parts_of_our_own_and_of_others(installed: Install) -> None:
    assert SHAPES.names() == ["circle"]
    installed("acme_shapes", "SIDES = 4.0", {"square": "acme_shapes:SIDES"})
    assert SHAPES.names() == ["circle", "square"]
    assert SHAPES.get("square") == 4.0
    assert SHAPES.get("circle") == pytest.approx(3.14159, abs=1e-5)


def test_nobody_takes_one_of_our_names(installed: Install) -> None:
    installed("acme_circles", "PI = 3.0", {"circle": "acme_circles:PI"})
    assert SHAPES.names() == ["circle"]
    assert SHAPES.get("circle") != 3.0


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no shape 'cube'; there are circle \(others .* highbeam.test_shapes"):
        SHAPES.get("cube")


def test_a_part_that_cannot_be_imported_is_told_with_its_distribution(installed: Install) -> None:
    installed("acme_broken", "import no_such_module", {"cone": "acme_broken:CONE"})
    with pytest.raises(UserError, match=r"shape 'cone' \(acme_broken:CONE of acme_broken\).*no_such_module"):
        SHAPES.get("cone")


def test_two_of_one_name_are_told(installed: Install) -> None:
    installed("acme_one", "X = 1.0", {"star": "acme_one:X"})
    installed("acme_two", "X = 2.0", {"star": "acme_two:X"})
    with pytest.raises(UserError, match="shape 'star' is in acme_one and acme_two: uninstall one"):
        SHAPES.get("star")
