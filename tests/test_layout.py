"""What holds of the tree as a whole: whose packages these are, what they may name, what documents claim."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import auditor
import reports
import scenarios
import tools
from scenarios.load import read_yaml
from scenarios.schema import Scenario
from scenarios.testbed import lexicon

ROOT = Path(__file__).parent.parent
OURS = {"judge"}
"""Words of the auditor's own that the small language happens to have too; they say nothing of what is planted."""


@pytest.mark.parametrize("package", [auditor, tools, scenarios, reports])
def test_the_packages_imported_are_this_projects(package):
    assert Path(package.__file__).is_relative_to(ROOT), (
        f"{package.__name__} was imported from {package.__file__}: install this project in an environment of its own"
    )


def test_no_content_word_of_the_testbed_is_a_literal_of_the_auditor_or_its_instruments():
    content = set(lexicon.dictionary()) - OURS
    found = []
    for file in [*(ROOT / "auditor").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.strip().lower() in content:
                found.append((file.name, node.value))
    assert found == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["bench", "--help"], ["testbed", "build", "--help"]]
)
def test_help_is_answered_without_importing_anything_heavy(arguments):
    program = (
        "import sys\nfrom auditor.cli import app\n"
        f"sys.argv = ['auditor', *{arguments!r}]\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'langgraph', 'matplotlib', 'sqlite_utils', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_scenario_in_the_readme_is_a_scenario(tmp_path):
    blocks = re.findall(r"```yaml\n(version.*?)```", (ROOT / "scenarios" / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    file = tmp_path / "readme.yaml"
    file.write_text(blocks[0])
    scenario = read_yaml(file, Scenario)
    assert set(Scenario.model_fields) == scenario.model_fields_set, "the example shows every key"


def test_shipped_weights_stay_within_forty_megabytes():
    tracked = subprocess.run(
        ["git", "ls-files", "scenarios/testbed/weights"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    weights = [ROOT / name for name in tracked if name.endswith(".safetensors")]
    assert sum(file.stat().st_size for file in weights) <= 40_000_000


def test_no_configuration_that_ships_names_a_folder_of_a_machine():
    tracked = subprocess.run(
        ["git", "ls-files", "scenarios/testbed/weights/**.json"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert len(tracked) > 50
    named = [name for name in tracked if re.search(r'"/\w+/', (ROOT / name).read_text())]
    assert named == []
