"""The command line in processes of its own: output, exit codes, what it imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import kzoo
from kzoo.cli.main import cli
from kzoo.paths import index_file, registry_directory
from tests.conftest import Run

FOREIGN = ("torch", "timm", "torchvision", "huggingface_hub", "numba")


def test_recommend_prints_json_and_nothing_else(kzoo_command: Run) -> None:
    done = kzoo_command("recommend", "timm:resnet26d", "-k", "3", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert (data["target"], data["measure"], data["scanned"]) == ("timm:resnet26d", "symmetric", 1954)
    assert data["elapsed_ms"] > 0
    first, second, _ = data["results"]
    assert (first["rank"], first["model"], first["similarity"], first["same"]) == (
        1,
        "timm/resnet26d.bt_in1k",
        1.0,
        True,
    )
    assert {key: second[key] for key in ("model", "architecture", "license", "params", "exact", "warning")} == {
        "model": "timm/resnet26t.ra2_in1k",
        "architecture": "timm:resnet26t",
        "license": "apache-2.0",
        "params": 16_011_872,
        "exact": True,
        "warning": None,
    }
    expected = kzoo.match("timm:resnet26t", "timm:resnet26d")
    assert second["similarity"] == pytest.approx(expected.symmetric, abs=1e-9)
    assert second["coverage"] == pytest.approx(expected.coverage, abs=1e-9)


def test_an_indexed_target_needs_no_torch_and_little_memory() -> None:
    script = f"""
import re, sys
sys.argv = ["kzoo", "recommend", "timm:resnet26d", "--json"]
from kzoo.cli.main import run
assert run() == 0
loaded = [name for name in {FOREIGN!r} if name in sys.modules]
print(loaded, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded, memory = re.fullmatch(r"(\[.*\]) (\d+)\n", done.stderr).groups()  # type: ignore[union-attr]
    assert loaded == "[]"
    assert int(memory) < 200 * 1024  # kilobytes


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("compare", "timm:resnet18", "timm:resnet34", "--json"),
        ("list", "--json"),
        ("show", "timm:resnet18"),
    ],
)
def test_reading_the_index_imports_no_framework(arguments: tuple[str, ...]) -> None:
    script = f"import sys; sys.argv = ['kzoo', *{arguments!r}]\nfrom kzoo.cli.main import run\nassert run() == 0\n"
    script += f"print([name for name in {FOREIGN!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.endswith("[]\n")


def test_help_imports_no_numbers() -> None:
    heavy = ("numpy", "pydantic", "yaml")
    script = "import sys; from kzoo.cli.main import run; sys.argv = ['kzoo', '--help']; run(); "
    script += f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_the_table_goes_to_stdout_and_hints_to_stderr(kzoo_command: Run) -> None:
    done = kzoo_command("recommend", "torchvision:vgg16", "-k", "6", "--exclude-same", "--explain", "--classes", "10")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        "#",
        "model",
        "symmetric",
        "directed",
        "coverage",
        "size",
        "top-1",
        "license",
        "weights",
        "note",
    ]
    assert lines[2].split()[:2] == ["1", "torchvision/vgg16.IMAGENET1K_V1"]
    assert "of the target's 16 layers find a partner" in done.stdout
    assert "1,954 checkpoints of" in done.stderr
    assert "Next: kzoo compare torchvision/vgg16.IMAGENET1K_V1 torchvision:vgg16 --classes 10" in done.stderr


def test_the_hinted_command_runs(kzoo_command: Run) -> None:
    hint = kzoo_command("recommend", "timm:resnet26d").stderr.rpartition("Next: ")[2].split()
    assert hint[0] == "kzoo"
    done = kzoo_command(*hint[1:])
    assert done.returncode == 0
    assert "similarity  0.9881" in done.stdout


def test_unlikely_sources_are_marked(kzoo_command: Run) -> None:
    done = kzoo_command("recommend", "timm:iformer_h", "-k", "10", "--exclude-same")
    assert "likely worse" in done.stdout
    assert (
        "all 21 such pairs of the authors' CIFAR-100 table got worse; one replication found no difference"
        in done.stderr
    )


def test_sorting_keeps_ranks(kzoo_command: Run) -> None:
    done = kzoo_command("recommend", "timm:resnet26d", "-k", "5", "--sort", "params", "--json")
    rows = json.loads(done.stdout)["results"]
    assert [row["params"] for row in rows] == sorted(row["params"] for row in rows)
    assert sorted(row["rank"] for row in rows) == [1, 2, 3, 4, 5]


def test_compare(kzoo_command: Run) -> None:
    done = kzoo_command("compare", "torchvision:vgg16", "torchvision:resnet18", "--json")
    data = json.loads(done.stdout)
    assert set(data) >= {
        "source",
        "target",
        "similarity",
        "directed",
        "reverse",
        "value",
        "matched_layers",
        "target_layers",
        "coverage",
        "pairs",
    }
    assert (data["matched_layers"], data["target_layers"], len(data["pairs"])) == (19, 41, 19)
    assert data["similarity"] == pytest.approx(0.1427, abs=5e-5)
    assert data["coverage"] == pytest.approx(0.9482, abs=5e-5)
    assert data["pairs"][0] == ["features.2", "layer1.0.conv1", 1.0]
    shown = kzoo_command("compare", "torchvision:vgg16", "torchvision:resnet18", "--pairs").stdout
    assert "features.2" in shown
    assert "19 of the target's 41 layers" in shown


def test_list_and_show(kzoo_command: Run) -> None:
    models = json.loads(
        kzoo_command("list", "resnet", "--library", "torchvision", "--sort", "accuracy", "--json").stdout
    )
    assert {model["library"] for model in models} == {"torchvision"}
    assert [m["accuracy"] for m in models] == sorted((m["accuracy"] for m in models), reverse=True)
    table = kzoo_command("list", "resnet", "--limit", "2")
    assert len(table.stdout.splitlines()) == 4
    assert "--limit 0 shows all" in table.stderr
    shown = json.loads(kzoo_command("show", "timm/resnet18.a1_in1k", "--layers", "--json").stdout)
    assert (shown["tag"], shown["license"], shown["typed_layers"], len(shown["layers"])) == (
        "a1_in1k",
        "apache-2.0",
        41,
        77,
    )
    entry = json.loads(kzoo_command("show", "timm:resnet18", "--json").stdout)
    assert entry["checkpoints"][0]["tag"] == "a1_in1k"
    assert "timm/resnet18.a1_in1k" in kzoo_command("show", "timm:resnet18").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("recommend", "timm:resnet2d"), 2, "nearest: timm:resnet26d"),
        (("recommend", "py:tests.plain:relu"), 2, "add --trust-code"),
        (
            ("recommend", "py:tests.plain:relu", "--trust-code"),
            2,
            "has no convolution, batch normalisation or linear layer",
        ),
        (("recommend", "timm:resnet18", "-k", "0"), 2, "Invalid value for '-k'"),
        (("recommend", "timm:resnet18", "--max-params", "many"), 2, "expected digits with K, M or G"),
        (("recommend", "timm:resnet18", "--classes", "-3"), 2, "classes is -3"),
        (("recommend",), 2, "Missing argument 'TARGET'"),
        (("frobnicate",), 2, "No such command 'frobnicate'"),
        (("-C", "nowhere", "list"), 2, "registry nowhere does not exist"),
        (("-C", "nowhere", "recommend", "timm:resnet18"), 2, "registry nowhere does not exist"),
        (("registry", "check", "nowhere"), 2, "does not exist"),
        (("compare", "timm:resnet18", "vgg"), 2, "names no network"),
        (("show", "timm:nothing"), 2, "has no architecture"),
        (("recommend", "timm:resnet18", "--classes", "4294967296"), 2, "expected a whole number from 0 to 2147483647"),
        (("recommend", "timm:resnet18", "--max-params", "9" * 5000), 2, "expected digits with K, M or G"),
        (("recommend", "timm:resnet18", "--max-params", "1__0M"), 2, "expected digits with K, M or G"),
        (("recommend", "timm:resnet18", "--license", "apache2"), 2, "no model has the license 'apache2'"),
        (("list", "--task", "classification"), 2, "expected one of image-classification"),
        (("recommend", "py:sys:exit", "--trust-code"), 2, "failed with SystemExit"),
        (
            ("recommend", "py:tests.plain:relu", "--trust-code", "--classes", "5"),
            2,
            "change a network that kzoo builds by name",
        ),
        (("registry", "sync"), 2, "Missing argument"),
    ],
)
def test_bad_input_is_one_sentence(kzoo_command: Run, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    done = kzoo_command(*arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert re.fullmatch(r"Error: [^\n]+\n", done.stderr)
    assert sentence in done.stderr


def test_a_registry_of_ones_own(kzoo_command: Run, tmp_path: Path) -> None:
    folder = tmp_path / "torchvision"
    folder.mkdir()
    path = folder / "alexnet.yaml"
    shipped = (registry_directory() / "torchvision" / "alexnet.yaml").read_text()
    path.write_text(shipped.replace("license: unknown", "license: bsd-3-clause"))
    missing = kzoo_command("-C", str(tmp_path), "recommend", "torchvision:alexnet", "-k", "1")
    assert (missing.returncode, f"build it with 'kzoo -C {tmp_path} index'" in missing.stderr) == (0, True)
    assert "unknown" in missing.stdout
    assert "1 checkpoints: no fault found" in kzoo_command("registry", "check", str(tmp_path)).stdout
    built = kzoo_command("-C", str(tmp_path), "index")
    assert built.returncode == 0, built.stderr
    env = {"KZOO_REGISTRY": str(tmp_path), "PATH": ""}
    found = kzoo_command("recommend", "torchvision:alexnet", "-k", "1", "--json", env=env)
    (row,) = json.loads(found.stdout)["results"]
    assert (row["license"], row["origin"]) == ("bsd-3-clause", str(tmp_path))
    assert kzoo_command("-C", str(tmp_path), "index", "--check").returncode == 0
    path.open("a").write("# reviewed\n")
    stale = kzoo_command("-C", str(tmp_path), "index", "--check")
    assert (stale.returncode, "is stale" in stale.stderr) == (1, True)
    hinted = kzoo_command("-C", str(tmp_path), "recommend", "torchvision:alexnet", "--json")
    assert f"Note: the registry {tmp_path} has changed since its index was compiled" in hinted.stderr
    json.loads(hinted.stdout)
    assert kzoo_command("-C", str(tmp_path), "show", "torchvision:alexnet").stderr.count("Note: ") == 1
    table = kzoo_command("-C", str(tmp_path), "recommend", "torchvision:alexnet", "--classes", "7")
    assert f"Next: kzoo -C {tmp_path} compare " in table.stderr
    assert table.stderr.endswith(" torchvision:alexnet --classes 7\n")


def test_malformed_yaml_names_file_line_and_field(kzoo_command: Run, tmp_path: Path) -> None:
    path = tmp_path / "timm" / "bad.yaml"
    path.parent.mkdir()
    path.write_text("library: timm\nfamily: bad\nversion: '1'\narchitectures:\n- name: x\n  parameters: lots\n")
    done = kzoo_command("registry", "check", str(tmp_path))
    assert done.returncode == 2
    assert re.fullmatch(
        rf"Error: {re.escape(str(path))}:6: architectures\.0\.parameters: [^\n]*found 'lots'\n", done.stderr
    )


def test_without_a_command_the_help_is_shown(kzoo_command: Run) -> None:
    done = kzoo_command()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: kzoo")


@pytest.mark.parametrize(
    ("text", "number"), [("12M", 12_000_000), ("1.001M", 1_001_000), ("1_500k", 1_500_000), ("7", 7), ("2b", 2 * 10**9)]
)
def test_parameter_counts(text: str, number: int) -> None:
    from kzoo.cli.common import _parse_count

    option = click.Option(["--max-params"])
    assert _parse_count(click.Context(cli), option, text) == number


def test_hints_keep_the_options(kzoo_command: Run) -> None:
    shown = kzoo_command("compare", "timm:resnet18", "timm:resnet34", "--classes", "10")
    assert shown.stderr == "Next: kzoo compare timm:resnet18 timm:resnet34 --pairs --classes 10\n"


def test_a_closed_stdout_is_no_error() -> None:
    done = subprocess.run(f"{sys.executable} -m kzoo list >&-", shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m kzoo list --json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[\n", "")


def test_every_command_has_help_and_examples() -> None:
    def commands(group: click.Group, path: str) -> list[tuple[str, click.Command]]:
        found: list[tuple[str, click.Command]] = []
        for name, command in group.commands.items():
            found.append((f"{path} {name}", command))
            if isinstance(command, click.Group):
                found += commands(command, f"{path} {name}")
        return found

    for path, command in commands(cli, "kzoo"):
        assert command.help, path
        assert command.epilog and f"  {path.split()[0]} " in command.epilog, path
        assert path in command.epilog or "-C" in command.epilog or path == "kzoo registry", path


def test_shell_completion(kzoo_command: Run) -> None:
    script = kzoo_command("completion", "bash").stdout
    assert "_KZOO_COMPLETE=bash_complete" in script
    # bash would cut timm:resnet26 into three words at its colon.
    assert 'COMP_WORDBREAKS="${COMP_WORDBREAKS//:}"' in script
    env = {
        "_KZOO_COMPLETE": "bash_complete",
        "COMP_WORDS": "kzoo recommend timm:resnet26",
        "COMP_CWORD": "2",
        "PATH": "",
    }
    offered = kzoo_command(env=env).stdout
    assert "plain,timm:resnet26d" in offered.splitlines()


def test_registry_commands_print_json(kzoo_command: Run) -> None:
    checked = json.loads(kzoo_command("registry", "check", "--json").stdout)
    assert checked == {"files": 128, "architectures": 1464, "checkpoints": 1954, "faults": []}
    meta = json.loads(kzoo_command("index", "--check", "--json").stdout)
    assert (meta["architectures"], meta["checkpoints"]) == (1464, 1954)


def test_every_command_that_prints_data_can_print_json() -> None:
    def commands(group: click.Group) -> list[click.Command]:
        return [
            found for c in group.commands.values() for found in (commands(c) if isinstance(c, click.Group) else [c])
        ]

    without = [command.name for command in commands(cli) if not any(p.name == "as_json" for p in command.params)]
    assert without == ["completion"]


def test_version(kzoo_command: Run) -> None:
    assert kzoo_command("--version").stdout == f"kzoo, version {kzoo.__version__}\n"
    assert index_file().is_file()


def test_show_reads_any_network(kzoo_command: Run) -> None:
    shown = kzoo_command("show", "py:tests.plain:relu", "--trust-code", "--json")
    assert (shown.returncode, json.loads(shown.stdout)["typed_layers"]) == (0, 0)
    refused = kzoo_command("show", "py:tests.plain:relu")
    assert (refused.returncode, "add --trust-code" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("torch", "torch", ["environment"]),
        ("scipy", "training", ["claims", "verify", "dpiat"]),
        ("jinja2", "pipelines", ["report", "--html", "page.html"]),
    ],
)
def test_a_command_whose_libraries_are_missing_says_what_to_install(
    tmp_path: Path, kzoo_command: Run, module: str, extra: str, arguments: list[str]
) -> None:
    # As if it were not installed.
    (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError('No module named {module}', name={module!r})\n")
    root = Path(__file__).parents[1]
    path = os.pathsep.join((str(tmp_path), str(root)))
    where = [] if arguments == ["environment"] else ["--root", str(root)]
    done = kzoo_command(*arguments, *where, env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    assert module in done.stderr.lower() and f"[{extra}]" in done.stderr
