import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from reproduce import provenance

RUN = "0123456789ab"


def test_the_entry_names_code_machine_and_versions() -> None:
    entry = provenance.collect(["/x/reproduce/__main__.py", "table1", "--seeds", "5"], {"lr": 0.1})
    assert entry["command"] == "python -m reproduce table1 --seeds 5"
    assert entry["settings"] == {"lr": 0.1}
    assert entry["versions"]["torch"]
    assert entry["cores"] >= 1
    assert entry["time_utc"].endswith("+00:00")
    json.dumps(entry, allow_nan=False)


def test_a_command_given_as_text_is_kept() -> None:
    assert provenance.collect("python -m reproduce list", {})["command"].endswith("reproduce list")


def test_no_path_of_this_machine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    command = [
        "/x",
        f"--out={tmp_path}/mine",
        "--data=/home/someone/sets/mnist",
        "/mnt/disk/a/b.yaml",
        "results/local/runs",
        "model.solver.rtol=1e-4",
    ]
    entry = provenance.collect(
        command, {"data": {"root": Path("/srv/sets/mnist"), "n": [str(tmp_path)]}}
    )
    assert entry["command"] == (
        "python -m reproduce --out=mine --data=~/sets/mnist …/b.yaml results/local/runs "
        "model.solver.rtol=1e-4"
    )
    assert entry["settings"] == {"data": {"root": "…/mnist", "n": ["."]}}


def test_a_web_address_and_a_rate_are_not_taken_for_paths() -> None:
    text = "https://example.org/a/b.gz at 3 images/s"
    assert provenance.collect(["x", text], {})["command"].endswith(text)


def test_collecting_imports_none_of_the_packages_it_reports() -> None:
    code = (
        "import sys; from reproduce import provenance as p; e = p.collect('', {})\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy and e['precision'] is None and e['versions']['torch'], heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=provenance.CHECKOUT)


def test_settings_that_the_caller_knows_are_not_asked_of_torch() -> None:
    told = {"threads": 3, "devices": ["a GPU"], "precision": {"tf32_matmul": False}, "seed": 1}
    entry = provenance.collect("", told)
    assert {key: entry[key] for key in ("threads", "devices", "precision")} == {
        key: told[key] for key in ("threads", "devices", "precision")
    }
    assert entry["settings"] == {"seed": 1}


def test_precision_is_read_from_a_loaded_torch_and_an_unreadable_flag_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Cudnn:
        deterministic, benchmark = True, False

        @property
        def allow_tf32(self) -> bool:
            raise RuntimeError("mixed flags\nand more")

    torch = SimpleNamespace(
        get_num_threads=lambda: 2,
        cuda=SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: 2,
            get_device_name=lambda index: f"GPU {index}",
        ),
        backends=SimpleNamespace(
            cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False)), cudnn=Cudnn()
        ),
        get_float32_matmul_precision=lambda: "highest",
        are_deterministic_algorithms_enabled=lambda: True,
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    entry = provenance.collect("", {})
    assert (entry["threads"], entry["devices"]) == (2, ["GPU 0", "GPU 1"])
    assert entry["precision"]["tf32_matmul"] is False
    assert entry["precision"]["tf32_cudnn"] == "unreadable: mixed flags"


def _commit(folder: Path) -> None:
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def test_results_do_not_make_a_checkout_dirty_but_code_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    (tmp_path / "code.py").write_text("a = 1\n")
    _commit(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "quick.csv").touch()
    entry = provenance.collect("", {})
    assert len(entry["commit"]) == 40
    assert entry["dirty"] is False
    (tmp_path / "code.py").write_text("a = 2\n")
    assert provenance.collect("", {})["dirty"] is True


def test_the_repository_around_an_installed_package_is_not_taken_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "a.py").touch()
    _commit(tmp_path)
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path / "site-packages")
    entry = provenance.collect("", {})
    assert (entry["commit"], entry["dirty"]) == (None, None)


def test_entries_of_all_runs_gather_beside_the_csv(tmp_path: Path) -> None:
    csv = tmp_path / "table1" / "quick.csv"
    for run, seed in ((RUN, 0), ("ffffffffffff", 1), (RUN, 2)):
        path = provenance.write(csv, run, provenance.collect("", {"seed": seed}))
    assert path == tmp_path / "table1" / "quick.provenance.json"
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    assert {run: entry["settings"] for run, entry in runs.items()} == {
        RUN: {"seed": 2},
        "ffffffffffff": {"seed": 1},
    }
    assert provenance.read(csv) == runs
    assert not list(path.parent.glob(".*.tmp"))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"runs": []}'])
def test_a_malformed_file_is_named_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "quick.provenance.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"quick\.provenance\.json is not a provenance file"):
        provenance.write(tmp_path / "quick.csv", RUN, {})
    assert path.read_text() == text


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"in the folder .*file.*--out"):
        provenance.write(tmp_path / "file" / "quick.csv", RUN, {})
