"""The wheel with the light core alone, in an empty environment, away from the checkout."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    install = [folder / "env/bin/python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True, capture_output=True)
    return folder / "env" / "bin"


def test_it_recommends_from_any_folder(environment: Path, tmp_path: Path) -> None:
    clean = {"PATH": os.defpath, "HOME": str(tmp_path)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments, capture_output=True, text=True, cwd=tmp_path, env=clean, timeout=120, check=False
        )

    kzoo = str(environment / "kzoo")
    done = run(kzoo, "recommend", "timm:resnet26d", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert (data["scanned"], data["results"][1]["model"]) == (1954, "timm/resnet26t.ra2_in1k")
    # Another head is not in the index: the compiled full scan works without torch too.
    done = run(kzoo, "recommend", "timm:resnet26d", "--classes", "10", "-k", "1", "--json")
    assert json.loads(done.stdout)["results"][0]["model"] == "timm/resnet26d.bt_in1k"
    assert run(kzoo, "registry", "check").stdout.startswith("128 files, 1,464 architectures")
    refused = run(kzoo, "recommend", "timm:resnet18", "--in-chans", "1")
    assert (refused.returncode, "install torch, timm and torchvision" in refused.stderr) == (2, True)
    # The small trained networks are in it, weights and all, and ranked by the index alone.
    found = json.loads(run(kzoo, "recommend", "local:glyphs-resnet-2x12", "-k", "2", "--json").stdout)
    assert [row["model"] for row in found["results"]] == ["local/glyphs-resnet-2x12", "local/glyphs-resnet-3x12"]
    shown = json.loads(run(kzoo, "show", "local/glyphs-resnet-2x12", "--json").stdout)
    where = [str(environment / "python"), "-c", "from kzoo.paths import registry_directory as d; print(d())"]
    weights = Path(run(*where).stdout.strip(), shown["path"])
    assert weights.is_relative_to(environment.parent) and weights.parts[-4] == "_registry"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == shown["sha256"]
    refused = run(kzoo, "recommend", "small:resnet-2x12")
    assert (refused.returncode, "install torch, timm and torchvision" in refused.stderr) == (2, True)
    installed = {entry["name"] for entry in json.loads(run(str(environment / "pip"), "list", "--format=json").stdout)}
    assert not installed & {"torch", "timm", "torchvision", "huggingface_hub", "dvc"}


def test_it_reports_and_has_the_pages_template(environment: Path, tmp_path: Path) -> None:
    assert list(environment.parent.glob("lib/python*/site-packages/kzoo/reporting/page.html.j2"))
    assert list(environment.parent.glob("lib/python*/site-packages/kzoo/publish/card.md.j2"))
    # The modules of a report need none of the extras; the page says what it needs.
    script = """
import sys
from kzoo.reporting import data, markdown, text
from kzoo.reporting.page import html
from kzoo.reporting.reading import Report
print(text.text(Report(())))
html(Report(()))
"""
    done = subprocess.run(
        [environment / "python", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.startswith("0 claims of 0 pipelines")
    assert "pip install 'kzoo[pipelines]'" in done.stderr
