"""The import rules of the tree, checked on the syntax trees of all modules."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("lightning_modules", "datamodules", "reproduce")
LIGHTNING = ("pytorch_lightning", "lightning")

# Prefix of a module -> the modules of ours it may import, besides its own package's siblings.
# The first prefix that fits counts.
ALLOWED: dict[str, tuple[str, ...]] = {
    "lightning_modules.solvers": ("lightning_modules.solvers",),
    "lightning_modules.nets": ("lightning_modules.nets", "lightning_modules.solvers"),
    "lightning_modules": ("lightning_modules",),
    "datamodules": ("datamodules",),
    "reproduce.storage": (),
    "reproduce.catalogue": (),
    "reproduce.paper": (),
    "reproduce.tables": ("reproduce.storage",),
    "reproduce.records": ("reproduce.storage", "reproduce.tables"),
    "reproduce.provenance": ("reproduce.storage",),
    "reproduce.plotting": ("reproduce.storage",),
    "reproduce.progress": (),
    "reproduce.timing": (),
    "reproduce.algorithm_1": (),
    "reproduce.allocator": (),
    "reproduce.long_solve": ("lightning_modules", "reproduce.memory"),
    "reproduce.memory": (),
    "reproduce.precision": (),
    "reproduce.sensitivities": (),
    "reproduce.random_fields": ("datamodules", "lightning_modules"),
    "reproduce.references": ("lightning_modules",),
    "reproduce.rmsprop": (),
    "reproduce.toy_paths": ("lightning_modules",),
    "reproduce.residual_paths": ("lightning_modules",),
    "reproduce.trained": (
        "lightning_modules",
        "reproduce.classification",
        "reproduce.context",
        "reproduce.evidence",
        "reproduce.restored",
        "reproduce.weights",
    ),
    "reproduce.own_fields": (
        "lightning_modules",
        "reproduce.classification",
        "reproduce.context",
        "reproduce.evidence",
        "reproduce.own_code",
        "reproduce.own_rows",
        "reproduce.trained",
        "reproduce.weights",
    ),
    "reproduce.bullet_flights": ("lightning_modules", "reproduce.references"),
    "reproduce.children": (),
    "reproduce.closed_forms": (),
    "reproduce.digits": ("datamodules",),
    "reproduce.maps": ("lightning_modules", "reproduce.ensembles"),
    "reproduce.ensembles": (
        "lightning_modules",
        "reproduce.context",
        "reproduce.fits",
        "reproduce.jobs",
        "reproduce.records",
        "reproduce.restored",
        "reproduce.trainings",
        "reproduce.weights",
    ),
    "reproduce.fits": (
        "lightning_modules",
        "reproduce.context",
        "reproduce.evidence",
        "reproduce.jobs",
        "reproduce.own_rows",
        "reproduce.records",
        "reproduce.trainings",
        "reproduce.trials",
    ),
    "reproduce.intensities": (
        "datamodules",
        "lightning_modules",
        "reproduce.records",
        "reproduce.restored",
    ),
    "reproduce.latent_space": ("datamodules", "lightning_modules"),
    "reproduce.learned_spiral": (
        "datamodules",
        "lightning_modules",
        "reproduce.maps",
        "reproduce.phase_portraits",
    ),
    "reproduce.phase_portraits": ("lightning_modules",),
    "reproduce.three_bodies": (
        "datamodules",
        "lightning_modules",
        "reproduce.records",
        "reproduce.restored",
    ),
    "reproduce.three_body_panels": (
        "datamodules",
        "reproduce.plotting",
        "reproduce.three_bodies",
    ),
    "reproduce.restored": ("reproduce.jobs", "reproduce.records", "reproduce.weights"),
    "reproduce.trained_fields": (
        "lightning_modules",
        "reproduce.evidence",
        "reproduce.records",
        "reproduce.weights",
    ),
    "reproduce.series_protocol": (),
    "reproduce.spiral_panels": ("reproduce.plotting",),
    "reproduce.trained_series": (
        "datamodules",
        "lightning_modules",
        "reproduce.evidence",
        "reproduce.restored",
    ),
    "reproduce.trained_flows": (
        "lightning_modules",
        "reproduce.context",
        "reproduce.ensembles",
        "reproduce.evidence",
    ),
    "reproduce.peers": (
        "lightning_modules.solvers",
        "reproduce.memory",
        "reproduce.peers",
        "reproduce.precision",
        "reproduce.problems",
        "reproduce.timing",
    ),
    "reproduce.problems": (
        "datamodules",
        "lightning_modules",
        "reproduce.own_fields",
        "reproduce.problems",
    ),
    "reproduce.contender": ("reproduce.peers", "reproduce.precision", "reproduce.problems"),
    "reproduce.contest": ("reproduce.failures",),
    "reproduce.work_precision": ("reproduce.statistics",),
    "reproduce.benchmark_plans": (
        "reproduce.benchmark_rows",
        "reproduce.contest",
        "reproduce.context",
        "reproduce.jobs",
        "reproduce.peers",
        "reproduce.problems",
    ),
    "reproduce.benchmark_rows": (
        "reproduce.contest",
        "reproduce.statistics",
        "reproduce.timing",
        "reproduce.work_precision",
    ),
    "reproduce.point": (
        "lightning_modules",
        "reproduce.allocator",
        "reproduce.memory",
        "reproduce.precision",
        "reproduce.statistics",
        "reproduce.timing",
    ),
    "reproduce.claims": ("reproduce.paper",),
    "reproduce.statistics": (),
    "reproduce.verdicts": (
        "reproduce.paper",
        "reproduce.claims",
        "reproduce.records",
        "reproduce.statistics",
    ),
    "reproduce.judgements": (
        "reproduce.paper",
        "reproduce.claims",
        "reproduce.records",
        "reproduce.statistics",
        "reproduce.storage",
        "reproduce.verdicts",
    ),
    "reproduce.folders": ("reproduce.catalogue", "reproduce.records"),
    "reproduce.findings": ("reproduce.catalogue", "reproduce.records"),
    "reproduce.sweep_results": ("reproduce.records", "reproduce.statistics"),
    "reproduce.benchmark_panels": (
        "reproduce.benchmark_plans",
        "reproduce.peers",
        "reproduce.plotting",
        "reproduce.records",
    ),
    "reproduce.sweep_panels": (
        "reproduce.plotting",
        "reproduce.statistics",
        "reproduce.sweep_results",
    ),
    "reproduce.page": (
        "reproduce.catalogue",
        "reproduce.claims",
        "reproduce.findings",
        "reproduce.folders",
        "reproduce.judgements",
        "reproduce.page",
        "reproduce.paper",
        "reproduce.provenance",
        "reproduce.records",
        "reproduce.statistics",
    ),
    "reproduce.publication": (
        "reproduce.findings",
        "reproduce.folders",
        "reproduce.judgements",
        "reproduce.page",
        "reproduce.report",
        "reproduce.storage",
        "reproduce.usage",
    ),
    "reproduce.printout": (
        "reproduce.compare",
        "reproduce.findings",
        "reproduce.folders",
        "reproduce.judgements",
        "reproduce.paper",
        "reproduce.publication",
        "reproduce.records",
        "reproduce.report",
    ),
    "reproduce.report": (
        "reproduce.catalogue",
        "reproduce.judgements",
        "reproduce.paper",
        "reproduce.records",
    ),
    "reproduce.usage": (),
    "reproduce.comparing": (
        "reproduce.catalogue",
        "reproduce.printout",
        "reproduce.result_sets",
        "reproduce.set_table",
        "reproduce.sets",
        "reproduce.strict",
        "reproduce.usage",
    ),
    "reproduce.margins": ("reproduce.claims", "reproduce.paper"),
    "reproduce.result_sets": ("reproduce.provenance", "reproduce.records"),
    "reproduce.sets": (
        "reproduce.claims",
        "reproduce.margins",
        "reproduce.records",
        "reproduce.result_sets",
        "reproduce.statistics",
    ),
    "reproduce.set_table": (
        "reproduce.compare",
        "reproduce.judgements",
        "reproduce.result_sets",
        "reproduce.sets",
        "reproduce.storage",
    ),
    "reproduce.strict": (
        "reproduce.claims",
        "reproduce.judgements",
        "reproduce.paper",
        "reproduce.records",
        "reproduce.tables",
        "reproduce.verdicts",
    ),
    "reproduce.compare": ("reproduce.paper", "reproduce.records"),
    "reproduce.weights": ("reproduce.storage",),
    "reproduce.evidence": (
        "reproduce.records",
        "reproduce.storage",
        "reproduce.tables",
        "reproduce.weights",
    ),
    "reproduce.classification": (
        "datamodules",
        "reproduce.context",
        "reproduce.evidence",
        "reproduce.jobs",
        "reproduce.own_rows",
        "reproduce.paper",
        "reproduce.plotting",
        "reproduce.records",
        "reproduce.trainings",
        "reproduce.trials",
    ),
    "reproduce.own_rows": ("reproduce.storage", "reproduce.yaml_values"),
    "reproduce.own_code": (),
    "reproduce.yaml_values": (),
    "reproduce.trainings": (
        "lightning_modules.solvers",
        "reproduce.context",
        "reproduce.jobs",
        "reproduce.records",
        "reproduce.trials",
    ),
    "reproduce.trials": ("reproduce.jobs",),
    "reproduce.failures": ("reproduce.records",),
    "reproduce.refusals": (),
    "reproduce.tether": (),
    "reproduce.plans": ("reproduce.storage", "reproduce.tables"),
    "reproduce.status_table": ("reproduce.status",),
    "reproduce.status": (
        "reproduce.folders",
        "reproduce.plans",
        "reproduce.records",
        "reproduce.storage",
        "reproduce.tables",
        "reproduce.tether",
    ),
    "reproduce.jobs": (
        "reproduce.failures",
        "reproduce.own_code",
        "reproduce.own_rows",
        "reproduce.records",
        "reproduce.provenance",
        "reproduce.refusals",
        "reproduce.storage",
        "reproduce.tether",
    ),
    "reproduce.launchers": ("reproduce.jobs", "reproduce.progress"),
    "reproduce.placement": ("reproduce.launchers", "reproduce.ray_launcher"),
    "reproduce.ray_cluster": (),
    "reproduce.away": (
        "reproduce.jobs",
        "reproduce.provenance",
        "reproduce.run_files",
        "reproduce.storage",
        "reproduce.tether",
    ),
    "reproduce.ray_launcher": (
        "reproduce.away",
        "reproduce.jobs",
        "reproduce.progress",
        "reproduce.ray_cluster",
        "reproduce.run_files",
    ),
    "reproduce.run_files": ("reproduce.storage",),
    "reproduce.context": (
        "reproduce.failures",
        "reproduce.plans",
        "reproduce.jobs",
        "reproduce.launchers",
        "reproduce.own_rows",
        "reproduce.records",
        "reproduce.provenance",
        "reproduce.progress",
    ),
    "reproduce.experiments": (
        "reproduce.restored",
        "reproduce.algorithm_1",
        "reproduce.bullet_flights",
        "reproduce.children",
        "reproduce.closed_forms",
        "reproduce.contest",
        "reproduce.digits",
        "reproduce.ensembles",
        "reproduce.fits",
        "reproduce.intensities",
        "reproduce.latent_space",
        "reproduce.maps",
        "reproduce.own_fields",
        "reproduce.own_rows",
        "reproduce.learned_spiral",
        "reproduce.peers",
        "reproduce.phase_portraits",
        "reproduce.problems",
        "reproduce.random_fields",
        "reproduce.references",
        "reproduce.residual_paths",
        "reproduce.rmsprop",
        "reproduce.series_protocol",
        "reproduce.spiral_panels",
        "reproduce.three_bodies",
        "reproduce.three_body_panels",
        "reproduce.trained_fields",
        "reproduce.trained_series",
        "reproduce.trained_flows",
        "reproduce.classification",
        "reproduce.progress",
        "reproduce.sensitivities",
        "reproduce.statistics",
        "reproduce.benchmark_panels",
        "reproduce.benchmark_plans",
        "reproduce.benchmark_rows",
        "reproduce.sweep_panels",
        "reproduce.sweep_results",
        "reproduce.toy_paths",
        "reproduce.trained",
        "reproduce.trials",
        "reproduce.work_precision",
        "lightning_modules",
        "datamodules",
        "reproduce.paper",
        "reproduce.records",
        "reproduce.provenance",
        "reproduce.plotting",
        "reproduce.timing",
        "reproduce.compare",
        "reproduce.context",
        "reproduce.jobs",
    ),
    "reproduce.train": (
        "lightning_modules",
        "datamodules",
        "reproduce.allocator",
        "reproduce.failures",
        "reproduce.precision",
        "reproduce.provenance",
        "reproduce.refusals",
        "reproduce.storage",
        "reproduce.tether",
    ),
    "reproduce.arguments": (
        "reproduce.catalogue",
        "reproduce.comparing",
        "reproduce.jobs",
        "reproduce.usage",
        "reproduce.yaml_values",
    ),
    "reproduce.regenerate": ("reproduce",),
    "reproduce.__main__": ("reproduce",),
}
WITHOUT_LIGHTNING = ("lightning_modules.solvers", "lightning_modules.nets", "reproduce.")
COMPOSITION_ROOTS = (
    "reproduce.train",
    "reproduce.point",
    "reproduce.contender",
    "reproduce.long_solve",
    "reproduce.__main__",
)


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found |= {
                f"{node.module}.{alias.name}"
                if f"{node.module}.{alias.name}" in MODULES
                else str(node.module)
                for alias in node.names
            }
    return found


def _within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(p.rstrip(".") + ".") for p in prefixes)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_level_allows(module: str) -> None:
    rule = next((p for p in ALLOWED if _within(module, (p,))), None)
    ours = {name for name in _imports(MODULES[module]) if _within(name, PACKAGES)}
    if rule is None:
        assert not ours, f"{module} has no rule and imports {ours}"
        return
    forbidden = {name for name in ours if not _within(name, ALLOWED[rule])}
    assert not forbidden, f"{module} imports {sorted(forbidden)}"


@pytest.mark.parametrize("module", MODULES)
def test_lightning_stays_out_of_solvers_nets_and_leaves(module: str) -> None:
    if _within(module, WITHOUT_LIGHTNING) and module != "reproduce.train":
        assert not {n for n in _imports(MODULES[module]) if _within(n, LIGHTNING)}


@pytest.mark.parametrize("module", MODULES)
def test_nobody_imports_a_composition_root(module: str) -> None:
    assert not {n for n in _imports(MODULES[module]) if _within(n, COMPOSITION_ROOTS)}


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("reproduce.experiments.")])
def test_experiments_neither_import_one_another_nor_parse_nor_open(module: str) -> None:
    imports = _imports(MODULES[module])
    assert "argparse" not in imports
    assert not {n for n in imports if n.startswith("reproduce.experiments.")}
    nodes = ast.walk(ast.parse(MODULES[module].read_text()))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "open"]


@pytest.mark.parametrize("command", ["['--help']", "['list']"])
def test_help_and_list_import_neither_torch_nor_lightning(command: str) -> None:
    code = (
        "import sys\n"
        "from reproduce.__main__ import main\n"
        f"try: main({command})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pytorch_lightning', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "table1" in done.stdout
