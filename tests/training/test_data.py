from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.ft2font import FT2Font
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from benchmarks.tasks import difficulty_table
from kzoo import InputError, WorldError
from kzoo.recipe import DataSection
from kzoo.surroundings import load_data
from kzoo.training import data, published
from kzoo.training.data import TASKS, Task, contact_sheet, load_task
from kzoo.training.folders import FileImages
from kzoo.training.glyphs import CHARACTERS, FONTS, RANGES, TINT, draw
from kzoo.training.tasks import TEST, TRAIN, chosen, parted, restricted, shuffled, taking_turns, without_validation

ROOT = Path(__file__).parent.parent.parent
Folder = dict[str, int]


def small(name: str = "glyphs:7AB", train: int | None = 12, test: int | None = 6, **options: object) -> Task:
    return load_task(name, train=train, test=test, **options)  # type: ignore[arg-type]


def picture(path: Path, level: int = 100, size: tuple[int, int] = (12, 9), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level if mode in ("L", "I;16") else (level,) * len(mode)).save(path)
    return path


def folder(root: Path, counts: Folder) -> Path:
    """Pictures of one level each, by class folder."""
    for place, (name, count) in enumerate(counts.items()):
        for number in range(count):
            picture(root / name / f"{number:02}.png", 20 * place + number)
    return root


# Glyphs


def test_glyphs_are_the_same_bytes_in_every_process() -> None:
    program = (
        "import hashlib; from kzoo.training.data import load_task; t = load_task('glyphs:7AB', train=12, test=6, channels=3);"
        "print(t.fingerprint, hashlib.sha256(t.train.images.numpy().tobytes()).hexdigest())"
    )
    task = small(channels=3)
    here = f"{task.fingerprint} {hashlib.sha256(np.asarray(task.train.images)).hexdigest()}\n"
    # This process has a random hash seed, and as many threads as there are cores.
    environment = {**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == here


def test_random_words_never_change() -> None:
    # What all images depend on.
    assert shuffled(8, 0, 0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert np.random.Philox(key=5, counter=7 << 192).random_raw(2).tolist() == [
        14074111963225203584,
        5661601338723873813,
    ]


@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 30), st.integers(1, 30), st.sampled_from([8, 17]), st.sampled_from([1, 3]), st.integers(0, 2**64 - 1)
)
def test_the_first_images_do_not_depend_on_how_many_follow(
    few: int, more: int, size: int, channels: int, seed: int
) -> None:
    one, two = (small(train=n, test=n, size=size, channels=channels, seed=seed) for n in (few, few + more))
    for split, longer in ((one.train, two.train), (one.test, two.test)):
        assert split.images.shape == (few, channels, size, size)
        assert torch.equal(split.images[:], longer.images[:few])
        assert torch.equal(split.labels, longer.labels[:few])


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw("AB" * 10, [*range(20)], TRAIN, 16, 1, 3)
    monkeypatch.setattr("kzoo.training.glyphs._PIXELS_AT_ONCE", 16 * 16 * 3)
    assert np.array_equal(draw("AB" * 10, [*range(20)], TRAIN, 16, 1, 3), whole)
    assert np.array_equal(draw("B", [7], TRAIN, 16, 1, 3)[0], whole[7])


def test_fonts_are_exactly_those_that_draw_every_character_as_itself() -> None:
    names = {}
    for path in (Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf"):
        font = FT2Font(str(path))
        names[path.stem] = [font.get_glyph_name(font.get_char_index(ord(character))) for character in CHARACTERS]
    expected = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", *CHARACTERS[10:]]
    assert sorted(FONTS[TRAIN] + FONTS[TEST]) == sorted(name for name, found in names.items() if found == expected)
    assert (len(FONTS[TRAIN]), len(FONTS[TEST])) == (15, 6)
    assert not set(FONTS[TRAIN]) & set(FONTS[TEST])


def test_parts_and_seeds_draw_other_images() -> None:
    images = [
        hashlib.sha256(image.numpy().tobytes()).digest()
        for seed in (0, 1, 2**64 - 1)
        for split in (small(train=60, test=60, seed=seed).train, small(train=60, test=60, seed=seed).test)
        for image in split.images[:]
    ]
    assert len(set(images)) == len(images) == 360


@pytest.mark.parametrize("name", ["glyphs/digits", "glyphs/upper", "glyphs/lower", "glyphs:5Qq"])
def test_a_subtask_has_the_images_of_the_whole(name: str) -> None:
    whole = load_task("glyphs", train=62 * 2, test=62, size=8)
    part = load_task(name, train=2 * len(load_task(name, train=1, test=1, size=8).classes), test=3, size=8)
    for split, of in ((part.train, whole.train), (part.test, whole.test)):
        for image, label in zip(split.images[:], split.labels.tolist(), strict=True):
            same = of.images[:][of.labels == whole.classes.index(part.classes[label])]
            assert any(torch.equal(image, other) for other in same)
    classes = {"glyphs/digits": CHARACTERS[:10], "glyphs/upper": CHARACTERS[10:36], "glyphs/lower": CHARACTERS[36:]}
    assert "".join(part.classes) == classes.get(name, "5Qq")


@pytest.mark.parametrize("count", [1, 61, 62, 150])
def test_classes_are_balanced_up_to_one(count: int) -> None:
    task = load_task("glyphs", train=count, test=5, size=8)
    counts = torch.bincount(task.train.labels, minlength=62)
    assert (len(task.train), len(task.test), counts.max() - counts.min()) == (count, 5, int(count % 62 != 0))


def test_letters_are_in_the_images() -> None:
    # Different letters under the same random numbers differ; a letter is nearer to itself in another size.
    task = load_task("glyphs:AB", train=40, test=2, size=64)
    images = np.asarray(task.train.images, dtype=float)
    spread = images.std(axis=(1, 2, 3))
    assert images.dtype == float and spread.min() > 10
    halves = np.asarray(load_task("glyphs:AB", train=40, test=2, size=32).train.images, dtype=float)
    small_ones = images.reshape(40, 1, 32, 2, 32, 2).mean(axis=(3, 5))
    agreement = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(small_ones, halves, strict=True)]
    strangers = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(small_ones, halves[2:], strict=False)]
    assert np.median(agreement) > 0.7 > 0.2 > abs(np.median(strangers))


# Digits


def test_digits_are_those_of_scikit_learn() -> None:
    found, task = load_digits(), load_task("digits")
    assert (len(task.train), len(task.test), task.size, task.channels) == (1352, 445, 8, 1)
    assert task.classes == tuple("0123456789")
    images = torch.cat([task.train.images[:], task.test.images[:]])[:, 0].numpy()
    levels = np.rint(images / 255 * 16)
    labels = torch.cat([task.train.labels, task.test.labels]).tolist()
    ours = sorted(zip((level.tobytes() for level in levels), labels, strict=True))
    assert ours == sorted(zip((image.tobytes() for image in found.images), found.target.tolist(), strict=True))
    assert torch.bincount(task.test.labels).tolist() == (np.bincount(found.target) // 4).tolist()


def test_digits_are_chosen_in_turn_and_by_seed() -> None:
    whole, few = load_task("digits"), load_task("digits", train=25, test=9)
    assert few.train.labels.tolist() == [*range(10), *range(10), *range(5)]
    assert torch.equal(few.train.images[:], whole.train.images[:25])
    assert torch.equal(few.test.images[:], whole.test.images[:9])
    other = load_task("digits", train=25, test=9, seed=1)
    assert not torch.equal(other.train.images[:], few.train.images[:])
    large = load_task("digits", train=3, test=1, size=24, channels=3)
    assert large.train.images.shape == (3, 3, 24, 24)
    assert torch.equal(large.train.images[:, 0], large.train.images[:, 2])


def test_digits_have_an_end() -> None:
    with pytest.raises(InputError, match=r"digits has at most 1,\d+ training images in balanced classes, not 1,353"):
        load_task("digits", train=1353)
    with pytest.raises(InputError) as caught:
        load_task("digits", train=1352)
    limit = int(str(caught.value).split("most ")[1].split()[0].replace(",", ""))
    counts = torch.bincount(load_task("digits", train=limit).train.labels)
    assert counts.max() - counts.min() == 1


@given(st.lists(st.integers(0, 3), min_size=4).map(lambda rest: [0, 1, 2, 3, *rest]), st.integers(0, 2**64 - 1))
def test_orders_are_balanced_and_parts_disjoint(labels: list[int], seed: int) -> None:
    array = np.array(labels)
    order = shuffled(len(array), seed, 2)
    assert sorted(order) == list(range(len(array)))
    turns = array[taking_turns(array)]
    limit = int(np.minimum(np.bincount(array), np.bincount(array).min() + 1).sum())
    for count in range(1, limit + 1):
        counts = np.bincount(turns[:count], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert (
        chosen(array, limit, seed, "it", TRAIN, 0).tolist()
        == chosen(array, None, seed, "it", TRAIN, 0)[:limit].tolist()
    )
    with pytest.raises(InputError, match=f"it has at most {limit} test images"):
        chosen(array, limit + 1, seed, "it", TEST, 0)
    train, test = parted(array)
    assert sorted([*train, *test]) == list(range(len(array)))
    assert np.bincount(array[test], minlength=4).tolist() == np.maximum(np.bincount(array) // 4, 1).tolist()


# Fingerprints


def test_fingerprints_change_with_whatever_changes_the_data() -> None:
    tasks = [
        small(),
        small(seed=1),
        small(train=13),
        small(test=7),
        small(size=33),
        small(channels=3),
        small("glyphs:8AB"),
        load_task("digits", train=12, test=6),
        load_task("digits", train=12, test=6, seed=1),
    ]
    assert len({task.fingerprint for task in tasks}) == len(tasks)
    assert small().fingerprint == tasks[0].fingerprint
    assert small("glyphs/digits", size=8).fingerprint == small("glyphs:0123456789", size=8).fingerprint


def test_a_fingerprint_sees_every_byte() -> None:
    from kzoo.training.tasks import make_task

    task = small(size=8)
    again = make_task("x", task.classes, task.train, task.test)
    assert again.fingerprint == task.fingerprint
    images, labels = task.test.images[:].clone(), task.test.labels.clone()
    images[-1, 0, -1, -1] ^= 1
    labels[0] = 1
    for test in (replace(task.test, images=images), replace(task.test, labels=labels)):
        assert make_task("x", task.classes, task.train, test).fingerprint != task.fingerprint
    assert make_task("x", ("A", "B", "8"), task.train, task.test).fingerprint != task.fingerprint


# Folders


def test_a_folder_with_parts(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"cat": 3, "dog": 4})
    folder(tmp_path / "val", {"cat": 1, "dog": 2})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "cat" / "._00.png").write_text("hidden")
    picture(tmp_path / "train" / "cat" / "more" / "UPPER.JPG", 250)
    task = load_task(f"imagefolder:{tmp_path}", size=8)
    assert (task.classes, task.channels, len(task.train), len(task.test)) == (("cat", "dog"), 3, 8, 3)
    images, labels = task.train.images[:], task.train.labels
    assert (images.dtype, images.shape, labels.dtype) == (torch.uint8, (8, 3, 8, 8), torch.int64)
    assert sorted(images[labels == 0][:, 0, 4, 4].tolist()) == [0, 1, 2, 250]
    assert sorted(images[labels == 1][:, 0, 4, 4].tolist()) == [20, 21, 22, 23]
    image, label = task.train[5]
    assert torch.equal(image, images[5]) and label == labels[5]
    batch, _ = next(iter(DataLoader(task.train, batch_size=3)))
    assert torch.equal(batch, task.train.images[torch.arange(3)])
    before = task.fingerprint
    picture(tmp_path / "val" / "cat" / "00.png", 99)
    assert load_task(f"imagefolder:{tmp_path}", size=8).fingerprint != before


def test_a_folder_without_parts_is_split_by_seed(tmp_path: Path) -> None:
    folder(tmp_path, {"a": 9, "b": 8, "c": 2})

    def levels(seed: int) -> tuple[list[int], list[int]]:
        task = load_task(f"imagefolder:{tmp_path}", size=8, channels=1, seed=seed)
        train, test = ([int(image[0, 4, 4]) for image in split.images[:]] for split in (task.train, task.test))
        return train, test

    train, test = levels(0)
    assert sorted(train + test) == [*range(9), *range(20, 28), 40, 41]
    assert sorted(level // 20 for level in test) == [0, 0, 1, 1, 2]
    assert levels(0) == (train, test) != levels(1)
    few = load_task(f"imagefolder:{tmp_path}", size=8, channels=1, train=4)
    assert [int(image[0, 4, 4]) for image in few.train.images[:]] == train[:4]


def test_images_of_every_mode(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{mode[0]}.png", level, (40, 20), mode) for mode, level in (("L", 7), ("RGBA", 9))]
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((20, 30), 0x8123, np.uint16)).save(deep)
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 3
    half = Image.new("L", (20, 20))
    half.paste(255, (0, 0, 20, 10))
    half.save(turned, exif=exif, quality=100)
    images = FileImages((*paths, deep, turned), 10, 3)[:]
    assert images[:3, :, 5, 5].tolist() == [[7] * 3, [9] * 3, [0x81] * 3]
    assert images[3, 0, 0, 5] < 5 and images[3, 0, 9, 5] > 250


def test_faulty_folders(tmp_path: Path) -> None:
    def refused(words: str, **options: int) -> None:
        with pytest.raises(InputError, match=words) as caught:
            load_task(f"imagefolder:{tmp_path / 'it'}", size=8, **options)
        assert "\n" not in str(caught.value)

    refused("is no folder: expected one with a folder of images for each class")
    (tmp_path / "it").mkdir()
    refused("has 0 folders of classes: expected two or more")
    folder(tmp_path / "it", {"a": 2, "b": 1})
    refused("b holds one image: a class needs two, one for testing; add some")
    (tmp_path / "it" / "c").mkdir()
    refused("c holds no images")
    picture(tmp_path / "it" / "c" / "0.png")
    picture(tmp_path / "it" / "c" / "1.png")
    picture(tmp_path / "it" / "b" / "01.png")
    refused("has at most 3 training images in balanced classes, not 4", train=4)
    (tmp_path / "it" / "b" / "00.png").write_bytes(b"\x89PNG nothing")
    refused("00.png cannot be read as an image .*: expected a whole image file, so repair or remove it")


def test_parts_of_a_folder_must_fit(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"a": 2, "b": 2})
    with pytest.raises(InputError, match="has train/ but neither test/ nor val/"):
        load_task(f"imagefolder:{tmp_path}")
    folder(tmp_path / "test", {"a": 2, "d": 2})
    with pytest.raises(InputError, match=r"differ in classes \(b, d\): give both the same"):
        load_task(f"imagefolder:{tmp_path}")


def test_files_that_break_later(tmp_path: Path) -> None:
    folder(tmp_path, {"a": 2, "b": 2})
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a" / "00.png")
    whole = (tmp_path / "a" / "00.png").read_bytes()
    (tmp_path / "a" / "00.png").write_bytes(whole[: len(whole) // 2])
    task = load_task(f"imagefolder:{tmp_path}", size=8)
    with pytest.raises(InputError, match=r"00\.png cannot be read as an image"):
        _ = task.train.images[:], task.test.images[:]
    (tmp_path / "a" / "00.png").unlink()
    with pytest.raises(InputError, match=r"00\.png is missing"):
        _ = task.train.images[:], task.test.images[:]


# torchvision's data sets


def write_mnist(root: Path, name: str = "MNIST") -> np.ndarray:
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    for part, count in (("train", 30), ("t10k", 20)):
        head = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images[:count].tobytes())
        labels = bytes(number % 10 for number in range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)
    return images


@pytest.mark.parametrize("name, inside", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_of_a_folder(tmp_path: Path, name: str, inside: str) -> None:
    images = write_mnist(tmp_path, inside)
    task = load_task(name, root=tmp_path, test=10)
    assert (task.size, task.channels, len(task.train), len(task.test), len(task.classes)) == (28, 1, 30, 10, 10)
    assert task.train.labels.tolist() == [*range(10)] * 3
    assert {image.numpy().tobytes() for image in task.train.images[:]} == {image.tobytes() for image in images}
    scaled = load_task(name, root=tmp_path, train=2, test=1, size=32, channels=3)
    assert scaled.train.images.shape == (2, 3, 32, 32)


def test_large_sets_are_files(tmp_path: Path) -> None:
    base = tmp_path / "fgvc-aircraft-2013b" / "data"
    for number in range(6):
        picture(base / "images" / f"{number}.jpg", number * 9)
    (base / "variants.txt").write_text("707\nA 320\n")
    (base / "images_variant_trainval.txt").write_text("0 707\n1 A 320\n2 707\n3 A 320\n")
    (base / "images_variant_test.txt").write_text("4 707\n5 A 320\n")
    task = load_task("fgvc_aircraft", root=tmp_path, size=8, train=4)
    assert (task.classes, task.train.labels.tolist(), task.channels) == (("707", "A 320"), [0, 1, 0, 1], 3)
    assert sorted(task.train.images[:][:, 0, 3, 3].tolist()) == [0, 9, 18, 27]
    assert task.test.images[:][:, 0, 3, 3].tolist() == [36, 45]


def test_flowers_are_trained_on_with_the_validation_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "flowers-102"
    for number in range(1, 7):
        picture(base / "jpg" / f"image_{number:05}.jpg", number * 9)
    savemat(base / "imagelabels.mat", {"labels": [[1, 2, 1, 2, 1, 2]]})
    savemat(base / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]})
    monkeypatch.setattr(published.torchvision.datasets.Flowers102, "_check_integrity", lambda _: True)
    task = load_task("flowers102", root=tmp_path, size=8)
    assert sorted(zip(task.train.labels.tolist(), task.train.images[:][:, 0, 3, 3].tolist(), strict=True)) == [
        (0, 9),
        (0, 27),
        (1, 18),
        (1, 36),
    ]
    assert task.test.images[:][:, 0, 3, 3].tolist() == [45, 54]
    assert (len(task.classes), task.size) == (102, 8)


def test_cifar_has_its_channels_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = published.torchvision.datasets.CIFAR10
    (tmp_path / kind.base_folder).mkdir()
    pixels = np.repeat([10, 20, 30], 1024).astype(np.uint8)[None].repeat(10, 0)
    for file, _ in (*kind.train_list, *kind.test_list):
        entry = {"data": pixels, "labels": [*range(10)]}
        (tmp_path / kind.base_folder / file).write_bytes(pickle.dumps(entry))
    names = {"label_names": [f"c{number}" for number in range(10)]}
    (tmp_path / kind.base_folder / "batches.meta").write_bytes(pickle.dumps(names))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    task = load_task("cifar10", root=tmp_path, train=10)
    assert task.train.images.shape == (10, 3, 32, 32) and task.classes[9] == "c9"
    assert task.train.images[3][:, 5, 5].tolist() == [10, 20, 30]
    grey = load_task("cifar10", root=tmp_path, train=1, channels=1, size=16)
    assert grey.train.images.shape == (1, 1, 16, 16) and int(grey.train.images[0, 0, 3, 3]) == 18


def test_damaged_mnist(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">II", 0x801, 29) + bytes(29))
    with pytest.raises(InputError, match=r"mnist in .* has 30 images but 29 labels: fetch it again"):
        load_task("mnist", root=tmp_path)
    labels.write_bytes(b"nothing of this kind")
    with pytest.raises(InputError, match=r"mnist is not in .*, or is damaged"):
        load_task("mnist", root=tmp_path)
    (tmp_path / "MNIST" / "processed").mkdir()
    with pytest.raises(InputError, match="processed may hold pickles of an old torchvision"):
        load_task("mnist", root=tmp_path)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_planted_pickle_is_not_opened(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kind = getattr(published.torchvision.datasets, published.ARRAYS[name])
    inside = tmp_path / kind.base_folder
    inside.mkdir()
    for file, _ in (*kind.train_list, *kind.test_list, (kind.meta["filename"], "")):
        (inside / file).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match=f"{name} is not in .*, or is damaged: allow its download"):
        load_task(name, root=tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", [*published.ARRAYS, *published.FILES])
def test_nothing_is_downloaded_unasked(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(InputError, match=r"lies in a folder: name it \(root=...\), and allow its download"):
        load_task(name)
    with pytest.raises(InputError, match=rf"{name} is not in .*: allow its download \(download=True\)"):
        load_task(name, root=tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no route")))
    with pytest.raises(WorldError, match=f"{name} could not be fetched into .*: check network and disk"):
        load_task(name, root=tmp_path, download=True)


# Arguments


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("glyph", {}, "'glyph' names no task: expected one of 13, nearest: glyphs"),
        ("glyphs/uper", {}, "'glyphs/uper' names no task: .*nearest: glyphs/upper"),
        ("imagefolder:", {}, "names no task"),
        ("glyphs:", {}, "has fewer than two classes"),
        ("glyphs:A", {}, "has fewer than two classes"),
        ("glyphs:AÄ", {}, "asks for 'Ä': expected letters and digits"),
        ("glyphs:ABA", {}, "repeats or mixes up classes: write glyphs:AB"),
        ("glyphs:aB1", {}, "repeats or mixes up classes: write glyphs:1Ba"),
        ("glyphs", {"size": 7}, "size=7 is not possible: expected a whole number, 8 to 224"),
        ("digits", {"size": 225}, "size=225 is not possible"),
        ("digits", {"size": True}, "size=True is not possible"),
        ("digits", {"train": 0}, "train=0 is not possible: expected a whole number, 1 or more"),
        ("digits", {"test": 1.5}, "test=1.5 is not possible"),
        ("digits", {"channels": 2}, r"channels=2 is not possible: expected 1 \(grey\) or 3 \(RGB\)"),
        ("digits", {"channels": True}, "channels=True is not possible"),
        ("digits", {"seed": -1}, "seed=-1 is not possible"),
        ("digits", {"seed": None}, "seed=None is not possible"),
        ("glyphs", {"train": 10**6, "size": 224}, "1,000,000 images of glyphs would take 46.7 GiB: ask for fewer"),
        ("digits", {"test": 446}, "digits has at most 4.. test images"),
    ],
)
def test_wrong_arguments_get_a_sentence(name: str, options: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load_task(name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"needs sklearn, .* pip install 'kzoo\[training\]'"):
        load_task("digits")


# Sheets and documents


def test_a_sheet_is_the_same_bytes_twice(tmp_path: Path) -> None:
    task = load_task("glyphs:ABC", train=8, test=4, size=30, channels=3)
    for name in ("one.png", "two.png"):
        contact_sheet(task, tmp_path / name, rows=3, columns=4)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    sheet = np.asarray(Image.open(tmp_path / "one.png"))
    assert sheet.shape == (3 * (60 + 13 + 4), 4 * (60 + 4), 3)
    first = torch.from_numpy(sheet[2:62:2, 2:62:2].copy()).permute(2, 0, 1)
    assert torch.equal(first, task.train.images[0])
    below = 2 * (60 + 13 + 4) + 2
    assert torch.equal(
        torch.from_numpy(sheet[below : below + 60 : 2, 2:62:2].copy()).permute(2, 0, 1), task.test.images[0]
    )


def test_a_sheet_needs_room(tmp_path: Path) -> None:
    task = small(size=8)
    with pytest.raises(InputError, match="0 rows and 2 columns has no images"):
        contact_sheet(task, tmp_path / "it.png", rows=0, columns=2)
    (tmp_path / "file").touch()
    with pytest.raises(WorldError, match=r"it.png cannot be written"):
        contact_sheet(task, tmp_path / "file" / "it.png")


@pytest.mark.parametrize("name", ["digits", "glyphs"])
def test_the_sheets_of_the_documents_are_current(name: str, tmp_path: Path) -> None:
    task = load_task(name, train=48, test=48)
    contact_sheet(task, tmp_path / "it.png")
    committed = ROOT / "docs" / "tasks" / f"{name}.png"
    assert committed.read_bytes() == (tmp_path / "it.png").read_bytes()
    assert committed.stat().st_size < 150_000


def test_the_document_tells_every_task_font_and_range() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text()
    for name in (*TASKS, *FONTS[TRAIN], *FONTS[TEST]):
        assert f"`{name}`" in page
    for low, high in RANGES.values():
        scales = (1, 10, 100, 1000)
        assert any(f"{low / scale:g} to {high / scale:g}" in page for scale in scales), (low, high)
    assert f"up to {TINT} levels" in page
    assert data.SMALLEST == 8 and data.LARGEST == 224


def test_the_document_has_the_measured_difficulty() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "tasks.json").read_text())
    table = difficulty_table(measured)
    assert table in (ROOT / "docs" / "tasks.md").read_text(), f"put this table into docs/tasks.md:\n{table}"
    glyphs = measured["tasks"]["glyphs"]
    assert glyphs["fingerprint"] == load_task("glyphs").fingerprint, "the data changed: run python -m benchmarks.tasks"
    converged = glyphs["cnn_median_by_epoch"]["12"]
    assert 0.25 < glyphs["cnn_median_by_step"]["300"] / converged < 0.6
    assert glyphs["linear"] < 0.1 < 0.6 < converged


def test_images_of_some_classes_keep_their_labels_or_get_new_ones() -> None:
    whole = load_task("digits", train=100, test=50, seed=3)
    kept = restricted(whole, ["7", "2"])
    there = torch.isin(whole.train.labels, torch.tensor([2, 7]))
    assert kept.classes == whole.classes and len(kept.train) == 20 and len(kept.test) == 10
    assert torch.equal(kept.train.labels, whole.train.labels[there])
    assert torch.equal(kept.train.images, whole.train.images[there])
    new = restricted(whole, ["7", "2"], relabelled=True)
    assert new.classes == ("7", "2") and torch.equal(new.train.images, kept.train.images)
    assert torch.equal(new.train.labels, (kept.train.labels == 2).long())
    assert len({whole.fingerprint, kept.fingerprint, new.fingerprint}) == 3


def test_images_of_some_classes_in_files_are_read_when_asked_for(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"cat": 3, "dog": 4})
    folder(tmp_path / "val", {"cat": 1, "dog": 2})
    whole = load_task(f"imagefolder:{tmp_path}", size=8)
    kept = restricted(whole, [whole.classes[1]], relabelled=True)
    places = (whole.train.labels == 1).nonzero().flatten()
    assert len(kept.train) == len(places) and kept.train.labels.tolist() == [0] * len(places)
    assert torch.equal(kept.train.images[:], whole.train.images[places])
    assert kept.train.images.shape == whole.train.images[places].shape
    assert kept.fingerprint != whole.fingerprint


def test_the_last_training_images_are_held_back_and_may_stand_in_for_test_images() -> None:
    whole = load_task("digits", train=100, test=50, seed=3)
    rest, tried = without_validation(whole, 30), without_validation(whole, 30, tested=True)
    for task in (rest, tried):
        assert torch.equal(task.train.images, whole.train.images[:70])
        assert torch.equal(task.train.labels, whole.train.labels[:70])
    assert torch.equal(rest.test.images, whole.test.images) and torch.equal(rest.test.labels, whole.test.labels)
    assert torch.equal(tried.test.images, whole.train.images[70:])
    assert torch.equal(tried.test.labels, whole.train.labels[70:])
    assert len({whole.fingerprint, rest.fingerprint, tried.fingerprint}) == 3
    with pytest.raises(InputError, match="has 100 training images, of which 100 are to be held back: hold back fewer"):
        without_validation(whole, 100)


def test_images_in_files_that_are_held_back_are_read_when_asked_for(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"cat": 3, "dog": 4})
    folder(tmp_path / "val", {"cat": 1, "dog": 2})
    whole = load_task(f"imagefolder:{tmp_path}", size=8)
    tried = without_validation(whole, 2, tested=True)
    assert (len(tried.train), tried.train.images.shape) == (5, (5, 3, 8, 8))
    assert torch.equal(tried.test.images[:], whole.train.images[5:7])
    kept = restricted(tried, [whole.classes[1]])
    assert torch.equal(kept.test.images[:], tried.test.images[:][tried.test.labels == 1])


def test_a_recipe_tests_on_images_held_back_only_where_some_are(tmp_path: Path) -> None:
    section = DataSection(task="digits", train=60, test=20, classes=("1", "2"), validation=20, split="validation")
    task = load_data(section, tmp_path)
    # They are held back before classes are chosen.
    assert (len(task.train), len(task.test), task.classes) == (8, 4, ("1", "2"))
    with pytest.raises(InputError, match=r"say how many \(validation\)"):
        load_data(section.model_copy(update={"validation": None}), tmp_path)


@pytest.mark.parametrize(("names", "said"), [(["x"], "no class 'x'"), ([], "none is"), (["1", "1"], "twice")])
def test_classes_that_a_task_does_not_have_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        restricted(load_task("digits", train=20, test=10), names)
