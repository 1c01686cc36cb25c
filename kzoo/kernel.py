"""The dynamic programme of DPIAT over integer sequences: one loop, run by the interpreter or compiled by numba.

Kept free of imports so that the interpreter can run it at once on lists; `kzoo.scan` compiles the same function when
there is much to do. Both do the same floating-point operations in the same order, so their results are equal bit by bit.
"""

from __future__ import annotations

from typing import Any


def match_values(
    targets: Any,
    sources: Any,
    scores: Any,
    strides: tuple[int, int],
    roots: Any,
    table: Any,
    run: Any,
    values: Any,
    output: tuple[int, int, int],
    rectangle: tuple[int, int, int, int],
) -> None:
    """Fill ``values`` with D(source -> target) for a rectangle of target and source sequences (section 1.4).

    ``targets`` and ``sources`` are (start, unit, position, group) of sequences that hold only elements that can score;
    positions are in the full list, because elements that cannot score still count in a run's length. Elements e of a
    target and f of a source score ``scores[unit(e) * strides[0] + unit(f) * strides[1]]`` if their groups are equal,
    else 0. A run is only ever extended to elements of the source's group: ending it on another is worth less than a
    shorter run, and the recurrence takes a run only where it is strictly better.

    ``roots[d]`` is the square root of d. ``table`` is scratch for (longest target + 1) * (longest source + 1) numbers,
    source-major; after the call it holds the table of the last pair. ``run`` is scratch as long as the longest target:
    scores, values, positions. ``output`` is (offset, target stride, source stride) of ``values``; ``rectangle`` is first
    and last target, first and last source. Cost per pair: about n^2 m / (2 groups).
    """
    target_start, target_unit, target_position, target_group = targets
    source_start, source_unit, _, source_group = sources
    run_scores, run_values, run_positions = run
    for t in range(rectangle[0], rectangle[1]):
        begin = target_start[t]
        width = target_start[t + 1] - begin + 1
        for s in range(rectangle[2], rectangle[3]):
            for row in range(width):
                table[row] = 0.0
            column = 0
            for j in range(source_start[s], source_start[s + 1]):
                before, column = column, column + width
                table[column] = 0.0
                group, offset = source_group[j], source_unit[j] * strides[1]
                members, reach = 0, 0.0
                for row in range(1, width):
                    e = begin + row - 1
                    best = max(table[before + row], table[column + row - 1])
                    if target_group[e] == group:
                        score = scores[target_unit[e] * strides[0] + offset]
                        run_scores[members] = score
                        run_values[members] = table[before + row - 1]
                        run_positions[members] = target_position[e]
                        members += 1
                        reach += score
                        end, total = target_position[e] + 1, 0.0
                        for k in range(members - 1, -1, -1):
                            root = roots[end - run_positions[k]]
                            # What a run must add to be better; if all scores so far do not, no longer run will be.
                            needed = (best - run_values[k]) * root - 1e-9
                            if reach < needed:
                                break
                            total += run_scores[k]
                            if total >= needed:
                                best = max(best, run_values[k] + total / root)
                    table[column + row] = best
            values[output[0] + t * output[1] + s * output[2]] = table[column + width - 1]
