"""The README's table of figures, from the committed results: ``python -m benchmarks.report``."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import RESULTS


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def span(values: dict[str, float], unit: str = "s", scale: float = 1.0, digits: int = 2) -> str:
    """Median with quartiles in brackets."""
    middle, low, high = (values[name] * scale for name in ("median", "quartile_1", "quartile_3"))
    return f"{middle:.{digits}f} {unit} [{low:.{digits}f}, {high:.{digits}f}]"


def table() -> str:
    startup, search, pairs, rankings, heads = map(load, ("startup", "search", "pairs", "rankings", "heads"))
    headers, fuzz = load("headers"), load("fuzz")
    indexed = startup["kzoo recommend timm:resnet26d --json"]
    worst = search["worst_targets"][0]
    left_out = search["every_timm_target_left_out"]
    fresh = max(search["fresh_process"], key=lambda row: row["wall_s"]["median"])

    def faster(name: str) -> str:
        whole, lean = (pairs[key]["median"] for key in (name, f"{name}_without_self_matches"))
        return f"{whole:.0f} times faster ({lean:.0f} if the transcription leaves out the two self-matches)"

    rows = [
        (
            "`kzoo recommend timm:resnet26d --json`, fresh process",
            f"{span(indexed['wall_s'])}, {indexed['peak_memory_mb']:.0f} MB",
        ),
        ("search for a target outside the index, warm, every timm architecture", span(left_out, "ms", 1000, 0)),
        (f"the slowest of them, {worst['target']}", f"{worst['search_s']:.2f} s"),
        (
            f"the slowest in a fresh process, {fresh['target']}",
            f"{span(fresh['wall_s'])}, {fresh['peak_memory_mb']:.0f} MB",
        ),
        *(
            (f"scan of an index of {size} architectures, both directions", span(values["scan_s"], "ms", 1000, 1))
            for size, values in search["scan_by_index_size"].items()
        ),
        (
            "one pair, the plain transcription of the recurrence (50 pairs)",
            span(pairs["transcription_s"], "ms", 1000, 0),
        ),
        (
            "one pair, kzoo, nothing cached",
            f"{span(pairs['cold_s'], 'ms', 1000)}, {faster('times_cold')}",
        ),
        (
            "one pair, kzoo, seen before",
            f"{span(pairs['warm_s'], 'ms', 1000)}, {faster('times_warm')}",
        ),
        *((f"`{name}`", span(startup[name]["wall_s"])) for name in ("kzoo --help", "dvc --help", "hf --help")),
        (
            f"whole rankings of {rankings['targets']} timm targets against a plain scan of every pair",
            f"equal in {rankings['rows_compared']:,} rows to {rankings['largest_difference']:.0e}",
        ),
        (
            "heads of another size taken from the index against the library's own network",
            f"equal for {heads['architectures']:,} architectures; {len(heads['left_to_the_library'])} are left to the library",
        ),
        *_header_rows(headers),
        *_surgery_rows(load("surgery")),
        *_training_rows(load("training")),
        *_fusing_rows(load("fusing")),
        *_amalgamating_rows(load("amalgamating")),
        (
            f"{fuzz['cases']:,} hostile headers, shards, configs, indexes and registry files",
            f"{fuzz['escaped']} without an answer or one sentence; slowest "
            f"{max(kind['slowest_s'] for kind in fuzz['kinds'].values()):.2f} s, {fuzz['peak_memory_mb']:.0f} MB at most",
        ),
    ]
    return "\n".join(("| what | measured |", "| --- | --- |", *(f"| {what} | {value} |" for what, value in rows)))


def agreement_table() -> str:
    """The table of docs/files.md: how well headers rank."""
    headers = load("headers")
    lines = [
        "| measure | rank correlation, the target read from its header | source and target | names in natural order, target |",
        "| --- | --- | --- | --- |",
    ]
    for measure, found in headers["rank_agreement"].items():
        plain = headers["rank_agreement_of_the_baseline"][measure]["target_guessed"]
        lines.append(f"| {measure} | {found['target_guessed']:.3f} | {found['both_guessed']:.3f} | {plain:.3f} |")
    top = headers["rankings"]["share_of_the_first_10_found"]
    plain = headers["rankings_of_the_baseline"]["share_of_the_first_10_found"]
    best = headers["rankings"]["best_exact_source_among_the_first_10"]
    return "\n".join(
        (
            *lines,
            "",
            f"For {headers['rankings']['targets']} of them as targets, the first ten sources found by the header hold "
            f"{top['median']:.0%} of the first ten for",
            f"the exact architecture (median; quartiles {top['quartile_1']:.0%} and {top['quartile_3']:.0%}; with names in "
            f"natural order {plain['median']:.0%}), and the exact first is among",
            f"them for {best:.0%}. `--refine` turns {headers['refined_to_the_exact_architecture']} of the "
            f"{headers['networks']} headers into the exact architecture, "
            f"{headers['refined_to_another_architecture']} into another network with the",
            "same names and shapes, and leaves the rest approximate.",
            "",
            *_torchvision_lines(headers["torchvision"]),
        )
    )


def _torchvision_lines(found: dict[str, Any]) -> list[str]:
    apart = [name.partition(":")[2] for name in found["networks_less_than_half_like_themselves"]]
    families = dict.fromkeys("_".join(name.split("_")[:1]) for name in apart)
    return [
        "The usual order of names was written down from timm's own networks; expect less for others. Of torchvision's "
        f"{found['networks']}",
        f"networks the correlation is {found['symmetric']['target_guessed']:.3f}, and {len(apart)} are less than half like "
        f"themselves ({', '.join(families)}): the",
        "paper's rule makes one block of nearly their whole body, because of modules that no header shows. `--refine` finds "
        f"{found['refined_to_a_network_with_the_same_names_and_shapes']} of",
        f"the {found['networks']}; kzoo says so below a ranking where it would.",
    ]


def _surgery_rows(surgery: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            f"carrying {pair['source']} into {pair['target']}, matching known, {variant}, beside a copy of the target's state",
            f"{span(pair[variant]['times_a_copy'], 'times')}; peak memory {pair[variant]['times_source_and_target']:.2f} times "
            "source and target",
        )
        for pair in surgery["pairs"]
        for variant in ("full_state", "paper")
    ]


def _training_rows(training: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            f"the training loop beside a plain one written by hand, {name} of {found['size']} pixels, one thread",
            f"{found['images_per_second']['kzoo']['median']:,.0f} images/s; overhead "
            f"{span(found['overhead_of_kzoo'], '%', 100, 1)}",
        )
        for name, found in training["networks"].items()
    ]


def _fusing_rows(fusing: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            f"`kzoo fuse A B` of two networks of {fusing['bytes_each'] / 1e9:.0f} GB ({name}), beside reading both and writing one",
            f"{span(found['times_the_baseline'], 'times')}; {span(found['fuse_s'], digits=1)}; anonymous memory "
            f"{found['peak_anonymous_memory_mb']:.0f} MB at most",
        )
        for name, found in fusing["files"].items()
    ]


def _amalgamating_rows(amalgamating: dict[str, Any]) -> list[tuple[str, str]]:
    arms = {"kd": "soft targets", "mmd": "with the discrepancy", "full": "all of common feature learning"}
    return [
        (
            f"a step of amalgamation beside one of plain distillation written by hand, {name} of {found['size']} pixels, "
            f"{found['student']}, one thread",
            "; ".join(
                f"{said} {span(found['times_by_hand'][arm], 'times')} as many per second" for arm, said in arms.items()
            ),
        )
        for name, found in amalgamating["cases"].items()
    ]


def _header_rows(headers: dict[str, Any]) -> list[tuple[str, str]]:
    guessed, baseline = headers["rank_agreement"], headers["rank_agreement_of_the_baseline"]
    top, plain = headers["rankings"], headers["rankings_of_the_baseline"]
    share, plain_share = (found["share_of_the_first_10_found"]["median"] for found in (top, plain))
    return [
        (
            f"rank correlation of {headers['pairs']:,} similarities of timm networks, target read from its header, {measure}",
            f"{guessed[measure]['target_guessed']:.3f} (names in natural order: {baseline[measure]['target_guessed']:.3f})",
        )
        for measure in ("symmetric", "directed", "extended")
    ] + [
        (
            f"share of the first 10 sources that {top['targets']} such targets find, median",
            f"{share:.0%} (names in natural order: {plain_share:.0%})",
        ),
        (
            f"headers of {headers['networks']} timm networks that `--refine` makes exact",
            f"{headers['refined_to_the_exact_architecture']}; {headers['refined_to_another_architecture']} become another "
            "with the same names and shapes",
        ),
    ]


if __name__ == "__main__":
    print(table())
    print()
    print(agreement_table())
