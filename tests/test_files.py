from __future__ import annotations

from pathlib import Path

import pytest

from kzoo import WorldError
from kzoo.files import replacing


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("two")
        raise RuntimeError
    assert [found.read_text() for found in path.parent.iterdir()] == ["one"]


def test_a_failing_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorldError, match="file/below cannot be written"), replacing(tmp_path / "file" / "below"):
        pass
