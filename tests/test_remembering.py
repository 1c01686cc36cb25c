"""What is remembered between recipes."""

from __future__ import annotations

from kzoo.remembering import Remembered


def test_the_least_recently_used_goes_first() -> None:
    made: list[str] = []

    def ask(name: str) -> str:
        return known.once(name, lambda: made.append(name) or f"{name}!", lambda _: 4)

    known = Remembered(8)
    assert [ask(name) for name in ("a", "b", "a", "c", "a", "b")] == ["a!", "b!", "a!", "c!", "a!", "b!"]
    assert made == ["a", "b", "c", "b"]


def test_what_is_too_large_is_made_each_time_and_so_is_everything_by_default() -> None:
    made: list[int] = []
    for known, size in ((Remembered(8), 9), (Remembered(), 0)):
        found = [known.once("a", lambda: made.append(1) or len(made), lambda _, size=size: size) for _ in range(2)]
        assert found[1] == found[0] + 1


def test_what_may_be_changed_is_copied() -> None:
    known = Remembered(8)
    first, second = (known.once("a", lambda: [1], len, list) for _ in range(2))
    first.append(2)
    assert second == [1] and known.once("a", lambda: [0], len, list) == [1]
