"""The dynamic programme of DPIAT over integer sequences: one loop, run by the interpreter or compiled by numba.

Kept free of imports so that the interpreter can run it at once on lists; `kzoo.scan` compiles the same function when
there is much to do. Both do the same floating-point operations in the same order, so their results are equal bit by bit.
"""

from __future__ import annotations

from typing import Any


def match_values(
    target_start: Any,
    target_unit: Any,
    target_position: Any,
    target_group: Any,
    source_start: Any,
    source_unit: Any,
    source_group: Any,
    scores: Any,
    target_stride: int,
    source_stride: int,
    roots: Any,
    table: Any,
    run_scores: Any,
    run_values: Any,
    run_positions: Any,
    values: Any,
    values_offset: int,
    values_target_stride: int,
    values_source_stride: int,
    first_target: int,
    last_target: int,
    first_source: int,
    last_source: int,
) -> None:
    """Fill ``values`` with D(source -> target) for a rectangle of target and source sequences (section 1.4).

    A sequence holds only elements that can score; ``target_position`` keeps each one's place in the full list, because
    elements that cannot score still count in a run's length. Element ``e`` of a target and ``f`` of a source score
    ``scores[unit(e) * target_stride + unit(f) * source_stride]`` if their groups are equal, else 0. A run is only ever
    extended to elements of the source's group: ending it on another is worth less than a shorter run, and the
    recurrence takes a run only where it is strictly better.

    ``roots[d]`` is the square root of d. ``table`` is scratch for (longest target + 1) * (longest source + 1) numbers,
    source-major; after the call it holds the table of the last pair. The three ``run_`` lists are scratch as long as
    the longest target. D of target t and source s is written to
    ``values[values_offset + t * values_target_stride + s * values_source_stride]``. Cost per pair: about n^2 m / (2 groups).
    """
    for t in range(first_target, last_target):
        begin = target_start[t]
        width = target_start[t + 1] - begin + 1
        for s in range(first_source, last_source):
            for row in range(width):
                table[row] = 0.0
            column = 0
            for j in range(source_start[s], source_start[s + 1]):
                before = column
                column += width
                table[column] = 0.0
                group = source_group[j]
                offset = source_unit[j] * source_stride
                members = 0
                reach = 0.0
                for row in range(1, width):
                    unmatched = table[column + row - 1]
                    best = table[before + row]
                    if unmatched > best:
                        best = unmatched
                    e = begin + row - 1
                    if target_group[e] == group:
                        score = scores[target_unit[e] * target_stride + offset]
                        run_scores[members] = score
                        run_values[members] = table[before + row - 1]
                        run_positions[members] = target_position[e]
                        members += 1
                        reach += score
                        end = target_position[e] + 1
                        total = 0.0
                        for k in range(members - 1, -1, -1):
                            root = roots[end - run_positions[k]]
                            # A run must add this much to be better; not even all scores so far do, or longer ones would.
                            needed = (best - run_values[k]) * root - 1e-9
                            if reach < needed:
                                break
                            total += run_scores[k]
                            if total >= needed:
                                candidate = run_values[k] + total / root
                                if candidate > best:
                                    best = candidate
                    table[column + row] = best
            place = values_offset + t * values_target_stride + s * values_source_stride
            values[place] = table[column + width - 1]
