"""Time per pair: kzoo's similarity against a straightforward transcription of the paper's recurrence, in one run.

Cold: new architecture objects, nothing cached but the compiled kernel. Warm: the same objects again.
"""

from __future__ import annotations

import statistics

import kzoo
from benchmarks.common import seconds, summary, write
from kzoo.encoding import encode_one
from kzoo.layers import Architecture
from kzoo.scan import compiled_engine
from tests import transcription

GROUPS = {
    "resnet50": ("resnet18", "resnet34", "resnet26d", "resnet101", "resnext50_32x4d", "seresnet50", "wide_resnet50_2"),
    "tf_efficientnet_b0": (
        "tf_efficientnet_b1",
        "tf_efficientnet_b2",
        "mixnet_m",
        "rexnet_100",
        "mnasnet_100",
        "semnasnet_100",
    ),
    "mobilenetv3_large_100": (
        "mobilenetv2_100",
        "tf_mobilenetv3_large_minimal_100",
        "ghostnet_100",
        "fbnetc_100",
        "lcnet_100",
    ),
    "regnety_016": ("regnety_004", "regnetx_004", "regnetx_032", "regnetz_b16", "resnet50"),
    "vit_small_patch16_224": (
        "vit_tiny_patch16_224",
        "deit_base_patch16_224",
        "cait_s24_224",
        "xcit_small_12_p16_224",
        "mixer_b16_224",
    ),
    "convnext_tiny": (
        "convnext_atto",
        "convnextv2_nano",
        "swin_tiny_patch4_window7_224",
        "poolformer_s12",
        "edgenext_small",
    ),
    "densenet121": ("densenet169", "resnet50", "vgg16_bn", "dla34", "inception_v3"),
    "mixnet_l": ("mixnet_s", "tf_efficientnet_b3", "efficientnetv2_rw_t", "hardcorenas_f"),
    "tf_efficientnetv2_s": ("tf_efficientnet_b4", "efficientnet_lite0", "nfnet_l0", "tinynet_a"),
    "mobilevit_s": ("mobilevitv2_100", "repvgg_b0", "cspresnet50", "skresnet34"),
}
PAIRS = [(f"timm:{source}", f"timm:{target}") for target, sources in GROUPS.items() for source in sources]


def measure(source_name: str, target_name: str) -> dict[str, object]:
    source, target = kzoo.architecture(source_name), kzoo.architecture(target_name)

    def cold() -> float:
        encode_one.cache_clear()
        fresh = [Architecture(known.items, known.name, known.parameters) for known in (source, target)]
        return seconds(lambda: kzoo.similarity(*fresh))

    a, b = source.items, target.items
    plain = statistics.median(seconds(lambda: transcription.similarity(source, target)) for _ in range(3))
    lean = statistics.median(seconds(lambda: (transcription.value(a, b), transcription.value(b, a))) for _ in range(3))
    cold_time = statistics.median(cold() for _ in range(15))
    warm_time = statistics.median(seconds(lambda: kzoo.similarity(source, target)) for _ in range(51))
    difference = abs(transcription.similarity(source, target) - kzoo.similarity(source, target))
    assert difference < 1e-12, (source_name, target_name, difference)
    return {
        "source": source_name,
        "target": target_name,
        "transcription_s": round(plain, 6),
        "cold_s": round(cold_time, 6),
        "warm_s": round(warm_time, 6),
        "times_cold": round(plain / cold_time, 1),
        "times_warm": round(plain / warm_time, 1),
        "times_cold_without_self_matches": round(lean / cold_time, 1),
        "times_warm_without_self_matches": round(lean / warm_time, 1),
    }


def main() -> None:
    assert len(PAIRS) == 50
    compiled_engine()
    kzoo.similarity("timm:resnet18", "timm:resnet34")
    rows = [measure(*pair) for pair in PAIRS]
    columns = [name for name in rows[0] if name not in ("source", "target")]
    write(
        "pairs",
        {
            "pairs": len(rows),
            **{name: summary([float(str(row[name])) for row in rows]) for name in columns},
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
