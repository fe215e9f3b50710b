"""The code that a configuration names: by what it is known, wherever it lies."""

import sys
import zipfile
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from reproduce import own_code

RAISING = "raise RuntimeError('a package of somebody was imported')\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; none of its modules can be imported without an error."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    assert not [name for name in sys.modules if name.startswith("their_")]


def _module(folder: Path, name: str, *, packages: bool = True) -> Path:
    path = folder / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RAISING)
    for package in path.relative_to(folder).parents[:-1] if packages else ():
        (folder / package / "__init__.py").write_text(RAISING)
    return path


def _follows(path: Path, section: Any) -> bool:
    """Return whether the digests are others after an edit."""
    before = own_code.digests(section)
    path.write_text(path.read_text() + "# edited\n")
    return own_code.digests(section) != before


@pytest.mark.parametrize(
    "section",
    [
        {"class_path": "their_package.inner.models.Model"},
        {"class_path": "their_package.inner.models.Outer.Inner"},
        {"class_path": "torch.nn.Linear", "init_args": {"field": "their_package.inner.models.F"}},
        {"init_args": {"solver": {"backend": "their_package.inner.models:solve"}}},
        {"init_args": {"parts": [1, {"class_path": "their_package.inner.models.Part"}]}},
    ],
)
@pytest.mark.parametrize("packages", [True, False])
def test_a_module_is_known_by_its_source(section: Any, packages: bool, folder: Path) -> None:
    path = _module(folder, "their_package/inner/models", packages=packages)
    assert list(own_code.digests(section)) == ["their_package.inner.models"]
    other = _module(folder, "their_package/inner/others", packages=packages)
    assert not _follows(other, section)
    assert _follows(path, section)


def test_a_module_by_itself_is_known_too(folder: Path) -> None:
    assert _follows(_module(folder, "their_models"), {"class_path": "their_models.Model"})


def test_a_class_that_a_package_has_from_its_modules_is_known_by_all_of_them(folder: Path) -> None:
    path = _module(folder, "their_package/models")
    assert _follows(path, {"class_path": "their_package.Model"})


def test_what_editors_leave_does_not_count_and_the_names_of_files_do(folder: Path) -> None:
    path, section = _module(folder, "their_package/models"), {"class_path": "their_package.Model"}
    before = own_code.digests(section)
    (path.parent / ".#models.py").symlink_to("nobody@nowhere")
    assert own_code.digests(section) == before
    path.rename(path.with_name("nets.py"))
    assert own_code.digests(section) != before


def test_code_in_an_archive_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section, found = {"class_path": "their_zipped.models.Model"}, []
    for edit in ("", "# edited\n"):
        archive = folder / f"{len(found)}.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("their_zipped/__init__.py", RAISING)
            file.writestr("their_zipped/models.py", RAISING + edit)
        monkeypatch.syspath_prepend(str(archive))
        found.append(own_code.digests(section))
    assert list(found[0]) == list(found[1]) == ["their_zipped.models"]
    assert found[0] != found[1]


def test_an_editable_installation_is_known_by_its_finder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _module(folder / "elsewhere", "their_editable/models")

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: Any) -> Any:
            places = [str(folder / "elsewhere")]
            return PathFinder.find_spec(name, places) if name == "their_editable" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert _follows(path, {"class_path": "their_editable.models.Model"})


@pytest.mark.parametrize(
    "name",
    [
        "their_package.nothing",
        "nobody.Model",
        "Model",
        "lightning_modules.FieldClassifier",
        "torch.nn.Linear",
        "torchvision.models.resnet18",
        "sys.path",
        "os.path.join",
        "..",
        ".Model",
        "their_package..Model",
        "1.5",
        "",
    ],
)
def test_what_is_ours_or_not_there_is_left_out(name: str, folder: Path) -> None:
    (folder / "their_package").mkdir()  # a folder of data may be called as a value begins
    (folder / "their_package" / "table.py").write_text(RAISING)
    section = {"class_path": name, "number": 5, "none": None}
    assert own_code.digests(section) == {}


def test_a_finder_that_raises_is_for_the_training_to_tell(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        @staticmethod
        def find_spec(*_: Any) -> Any:
            raise AttributeError

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    assert own_code.digests({"class_path": "their_package.models.Model"}) == {}
