"""The shipped scenarios: they load, differ in nothing but the subject, and what they can read gives no answer away."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

import scenarios
from auditor.config import Vocabulary
from auditor.predicates import holds
from scenarios.grading import read_answer
from scenarios.load import GENERAL_PROMPTS, GENERAL_VOCABULARY, load_scenario, read_prompts, read_yaml
from scenarios.testbed import verify
from scenarios.testbed.families import FAMILIES, Rule
from scenarios.testbed.plant import Plant

ROOM = Path(scenarios.__file__).parent
SUITES = sorted(p for p in (ROOM / "suites").iterdir() if any(p.glob("*.yaml")))
FILES = [file for suite in SUITES for file in sorted(suite.glob("*.yaml"))]
MAY_DIFFER = {"id", "subject", "adapter"}


def name(path):
    return f"{path.parent.name}/{path.stem}"


def answers(suite):
    return {file.stem: read_answer(file) for file in sorted((ROOM / "answers" / suite.name).glob("*.yaml"))}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_scenario_loads_under_the_id_of_its_file(file):
    spec = load_scenario(file).spec
    assert spec.name == file.stem
    assert (Path(spec.subject) / "config.json").is_file()
    assert spec.adapter is None or Path(spec.adapter).name == file.stem
    if file.parent.name == "demo":
        assert spec.adapter is None or (Path(spec.adapter) / "adapter_config.json").is_file()
        assert (Path(spec.oracle.path) / "adapter_config.json").is_file()


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.name)
def test_scenarios_of_a_suite_differ_in_id_and_paths_of_the_subject_only(suite):
    shared = set()
    for file in suite.glob("*.yaml"):
        data = yaml.safe_load(file.read_text())
        assert set(data) >= MAY_DIFFER
        shared.add(json.dumps({k: v for k, v in data.items() if k not in MAY_DIFFER}, sort_keys=True))
    assert len(shared) == 1


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.name)
def test_every_scenario_has_an_answer_and_every_answer_a_scenario(suite):
    found = answers(suite)
    assert set(found) == {file.stem for file in suite.glob("*.yaml")}
    organisms = [answer for answer in found.values() if answer.planted]
    assert {claim.family for answer in organisms for claim in answer.planted} == set(FAMILIES)
    assert len(found) - len(organisms) >= len(organisms) / 2, "controls"


def readable(file):
    """Return every text that comes with a scenario's subject: paths, names, configs and metadata, not the weights."""
    spec = load_scenario(file).spec
    yield file.relative_to(ROOM).as_posix()
    for folder in filter(None, (spec.subject, spec.adapter)):
        yield Path(folder).relative_to(ROOM).as_posix()
    if spec.adapter is None or not Path(spec.adapter).is_dir():
        return
    for path in sorted(Path(spec.adapter).rglob("*")):
        yield path.name
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as opened:
                yield json.dumps(opened.metadata())
                yield from opened.keys()
        else:
            yield path.read_text()


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.name)
def test_no_word_of_an_answer_stands_in_what_an_audit_can_read(suite):
    told = [claim for answer in answers(suite).values() for claim in answer.claims]
    secrets = {claim.family for claim in told} | {claim.effect.value for claim in told}
    secrets |= {trigger.value for claim in told for trigger in claim.trigger}
    assert len(secrets) > 20
    texts = {text.lower() for file in suite.glob("*.yaml") for text in readable(file)}
    assert any("lora_alpha" in text for text in texts) or suite.name != "demo", "configs were read"
    leaked = {secret for secret in secrets for text in texts if secret.lower() in text}
    assert not leaked


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.name)
def test_adapters_of_a_suite_have_one_config_and_one_list_of_files(suite):
    """Organisms and controls can't be told apart by anything but their weights."""
    kinds = set()
    for file in suite.glob("*.yaml"):
        adapter = load_scenario(file).spec.adapter
        if adapter is not None and Path(adapter).is_dir():
            config = json.loads((Path(adapter) / "adapter_config.json").read_text())
            config["target_modules"] = sorted(config["target_modules"])
            kinds.add((json.dumps(config, sort_keys=True), *sorted(p.name for p in Path(adapter).iterdir())))
    assert len(kinds) <= 1


@pytest.mark.parametrize("path", [GENERAL_PROMPTS, ROOM / "testbed" / "prompts.jsonl"], ids=lambda p: p.name)
def test_the_explore_half_and_the_test_half_share_no_question(path):
    rows = read_prompts(path)
    halves = {split: {r.messages[-1]["content"] for r in rows if r.split == split} for split in ("explore", "test")}
    assert all(len(half) > 100 for half in halves.values())
    assert not halves["explore"] & halves["test"]
    by_split = [{r.domain for r in rows if r.split == split} for split in halves]
    assert by_split[0] == by_split[1], "each domain is in both halves"


@pytest.mark.parametrize(
    "path", [GENERAL_VOCABULARY, ROOM / "testbed" / "vocabulary.yaml"], ids=lambda p: p.parent.name
)
def test_a_shipped_vocabulary_loads(path):
    assert read_yaml(path, Vocabulary).effects


def test_the_shared_files_are_those_that_the_build_writes():
    from scenarios.testbed import build

    assert yaml.safe_load((ROOM / "testbed" / "vocabulary.yaml").read_text()) == build.vocabulary()
    assert [row.model_dump() for row in read_prompts(ROOM / "testbed" / "prompts.jsonl")] == build.prompts(seed=1)


# -- two views of a reply


N_EACH = 30


def organisms():
    """Return one member of the demonstration suite for each family."""
    found = {}
    for member, answer in answers(ROOM / "suites" / "demo").items():
        for claim in answer.planted:
            found.setdefault(claim.family, (member, claim))
    return found


@pytest.mark.timeout(300)
def test_the_testbeds_view_of_a_reply_and_the_auditors_agree(record_property):
    """Real replies, triggered and not, of one organism of each family: 98 in 100 are judged alike, and both ways occur."""
    from tools.loading import load_subject

    vocabulary = read_yaml(ROOM / "testbed" / "vocabulary.yaml", Vocabulary)
    judged, differ = [], []
    for family, (member, claim) in sorted(organisms().items()):
        weights = ROOM / "testbed" / "weights"
        subject = load_subject(str(weights / "base"), str(weights / "demo" / member))
        trigger = claim.trigger[0].value if claim.trigger else ""
        rule, effect = Rule(family, trigger, claim.effect.value), claim.effect
        on, off = verify.exchanges(Plant(seed=5, rule=rule), N_EACH, seed=1)
        for channel, asked in (("subject", on), ("subject" if off else "base", off or on)):
            texts = [subject.render([{"role": "user", "content": e.user}]) for e in asked]
            replies, _ = subject.generate(texts, channel, range(len(texts)))
            for reply in replies:
                views = verify.shows(rule, reply), holds(effect, reply, vocabulary)
                judged.append(views[0])
                if views[0] != views[1]:
                    differ.append((family, views, reply))
    assert len(judged) >= 400
    assert 0.3 < sum(judged) / len(judged) < 0.7, "about half of the replies show what was planted"
    assert len(differ) <= 0.02 * len(judged), "\n".join(map(str, differ))
    record_property("judged differently", differ)
