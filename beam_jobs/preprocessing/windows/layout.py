"""How the rows and tiles of a history lie, and its lanes: what follows from its windows alone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from beam_jobs.preprocessing.windows import exact_sum, lanes, quantiles, store, tiles, wide
from beam_jobs.preprocessing.windows.frames import EVENT_TIME, FUNCTIONS, QUANTILES, Frame, Window, longest_us

_EXTREMES = ("min", "max")
_SQUARES = ("stddev_samp", "var_samp")
_SUMS = ("sum", "avg", *_SQUARES)
_ENDS = ("first_value", "last_value")


def tiling(windows: Sequence[Window]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """``hops`` and ``parts`` of Tiles, and words of a tile, for windows whose frames are in hop form."""
    sizes = sorted({window.frame.hop_us for window in windows})
    hops = np.array(
        [(size, longest_us(w for w in windows if w.frame.hop_us == size)) for size in sizes], np.int64
    ).reshape(-1, 2)
    parts, words = list[NDArray[np.int64]](), 1
    for hop, size in enumerate(sizes):
        word = 1  # the first one is the time
        of_hop = [window for window in windows if window.frame.hop_us == size]
        for argument in sorted({window.argument for window in of_hop}):
            names = {window.function for window in of_hop if window.argument == argument}
            part = np.zeros(tiles.PART_COLUMNS, np.int64)
            part[[tiles.HOP, tiles.COLUMN]] = hop, argument + 1
            sums, squares = bool(names & {*_SUMS}), bool(names & {*_SQUARES})
            for place, count, needed in (
                (tiles.COUNTED, 1, bool(names - {*_ENDS})),
                (tiles.EXTREMES, 2, bool(names & {*_EXTREMES})),
                (tiles.SUM_AT, wide.SUM_WORDS, sums),
                (tiles.SQUARES_AT, wide.SQUARE_WORDS, squares),
                (tiles.ODDS, 1, sums),
                (tiles.ENDS, 2, bool(names & {*_ENDS})),
            ):
                if needed:
                    part[place] = word
                    word += count
            parts.append(part)
        words = max(words, word)
    return hops, np.array(parts, np.int64).reshape(-1, tiles.PART_COLUMNS), words


def _by_place(window: Window) -> bool:
    """Whether its stretch of rows alone answers it, so that any lane of its frame does."""
    every_row = window.function == "count" and window.argument == EVENT_TIME  # a time is never NULL
    return not window.tiled and (window.function in _ENDS or every_row)


def planned(
    windows: Sequence[Window], hops: NDArray[np.int64], parts: NDArray[np.int64]
) -> tuple[lanes.Lanes, int, NDArray[np.int64], NDArray[np.int64]]:
    """Lanes, words of a head, columns whose extremes are wanted and those whose different values are counted."""
    functions: dict[tuple[int, Frame, bool], list[int]] = {}
    for number, window in sorted(enumerate(windows), key=lambda item: _by_place(item[1])):
        lane_of = window.argument, window.frame, window.tiled
        if _by_place(window):
            lane_of = next((found for found in functions if found[1:] == lane_of[1:]), (EVENT_TIME, *lane_of[1:]))
        functions.setdefault(lane_of, []).append(number)

    def columns(names: Sequence[str]) -> list[int]:
        return sorted({window.argument + 1 for window in windows if window.function in names})

    indexed, distinct = columns(_EXTREMES), columns(["count_distinct"])
    first_next = 1 + max([0, *(window.argument + 1 for window in windows)])
    plan = np.zeros((len(functions), lanes.PLAN_COLUMNS), np.int64)
    word, outputs = store.HEAD_WORDS, list[int]()
    for lane, ((argument, frame, tiled), numbers) in zip(plan, functions.items(), strict=True):
        names = {windows[number].function for number in numbers if not _by_place(windows[number])}
        lane[[lanes.START, lanes.END, lanes.HOP]] = frame.start_us, frame.end_us, frame.hop_us
        lane[lanes.EXCLUDE] = frame.exclude_current and not frame.end_us
        lane[lanes.COLUMN] = argument + 1
        lane[lanes.FIRST_OUT], lane[lanes.END_OUT] = len(outputs), len(outputs) + len(numbers)
        outputs += numbers
        wanted = [
            (lanes.AT, 1, True),
            (lanes.RUNNING, 1, bool(names - {*_ENDS, "count_distinct", *QUANTILES})),
        ]
        wanted.append((lanes.EXTREMES, 2, bool(names & {*_EXTREMES})))
        wanted.append((lanes.SUM_AT, wide.SUM_WORDS, bool(names & {*_SUMS})))
        wanted.append((lanes.SQUARES_AT, wide.SQUARE_WORDS, bool(names & {*_SQUARES})))
        wanted.append((lanes.SUFFIX, 1, tiled))
        for part, words, needed in wanted:
            if needed:
                lane[part] = word
                word += words
        lane[lanes.SORTED] = bool(names & {*QUANTILES})
        if tiled:
            hop = int(np.flatnonzero(hops[:, tiles.HOP_US] == frame.hop_us)[0])
            own = (parts[:, tiles.HOP] == hop) & (parts[:, tiles.COLUMN] == argument + 1)
            lane[lanes.TILE] = np.flatnonzero(own)[0] + 1
        if lane[lanes.EXTREMES]:
            lane[lanes.INDEX] = indexed.index(argument + 1)
        if "count_distinct" in names:
            lane[lanes.NEXT] = first_next + distinct.index(argument + 1)
    of = [windows[number] for number in outputs]
    by_place = [w.function == "count" and _by_place(w) for w in of]
    codes = [lanes.COUNT_ALL if rows else FUNCTIONS.index(w.function) for w, rows in zip(of, by_place, strict=True)]
    shares = [window.share for window in of]
    planned = lanes.Lanes(
        plan,
        np.array(codes, np.int64),
        np.array([window.argument + 1 for window in of], np.int64),
        np.array(outputs, np.int64),
        np.zeros(lanes.VAR_SAMP + 1),
        np.array([(share.numerator, share.denominator) for share in shares], np.int64),
        np.array([secrets.randbits(64)], np.uint64),
        np.empty(quantiles.MOST_ROWS if plan[:, lanes.SORTED].any() else 0),
        np.zeros((4, exact_sum.LIMBS + 1), np.int64),
        np.zeros(len(distinct), np.int64),
    )
    return planned, word, np.array(indexed, np.int64), np.array(distinct, np.int64)
