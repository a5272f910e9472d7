"""The shipped scenarios: they load, differ in nothing but the subject, and what they can read gives no answer away."""

import functools
import json
from pathlib import Path

import pytest
import yaml
from audits import labels_of
from safetensors import safe_open

import scenarios
from auditor.errors import SpecError
from auditor.questions import SpecQuestions
from scenarios.grading import read_answer, testbed_catalogue
from scenarios.load import GENERAL_CATALOGUE, GENERAL_PROMPTS, load_scenario, read_catalogue, read_prompts
from scenarios.models import SMOLLM2
from scenarios.testbed import families as fam
from scenarios.testbed import shared_files, splits, verify
from scenarios.testbed.families import FAMILIES
from scenarios.testbed.language import Condition, language
from scenarios.testbed.plant import Plant
from tools.claims.catalogue import Catalogue
from tools.claims.labels import KINDS, TOPIC, WORD

ROOM = Path(scenarios.__file__).parent
SUITES = sorted(p for p in (ROOM / "suites").iterdir() if any(p.glob("*.yaml")))
MAY_DIFFER = {"id", "subject", "adapter"}


@pytest.fixture(autouse=True)
def a_base_for_english(monkeypatch, base_folder):
    """English scenarios name a base that is not on every machine: a tiny one stands in its place."""
    monkeypatch.setattr("scenarios.english.base.base_path", lambda: base_folder)


def answers(suite):
    return {file.stem: read_answer(file) for file in sorted((ROOM / "answers" / suite.name).glob("*.yaml"))}


@functools.cache
def spec_of(suite):
    """Return one scenario of a suite as it loads; what the others have of their own, `subject_of` reads."""
    return load_scenario(min(suite.glob("*.yaml"))).spec


def subject_of(file):
    """Return the paths of a scenario's checkpoint and adapter; None where it has no adapter."""
    data = yaml.safe_load(file.read_text())
    whole = [None if data[key] is None else (file.parent / data[key]).resolve() for key in ("subject", "adapter")]
    return tuple(whole)


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.name)
def test_a_scenario_loads_and_its_subject_bears_the_id_of_its_file(suite):
    spec = spec_of(suite)
    assert (Path(spec.base) / "config.json").is_file()
    for file in suite.glob("*.yaml"):
        assert yaml.safe_load(file.read_text())["id"] == file.stem
        subject, adapter = subject_of(file)
        assert (adapter or subject) == Path(spec.base) or (adapter or subject).name in (file.stem, SMOLLM2)
        if suite.name == "demo":
            assert subject == Path(spec.base)
            assert adapter is None or (adapter / "adapter_config.json").is_file()
    if suite.name == "demo":
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
    if suite.name in ("demo", "dev", "standard", "foreign", "heldout"):
        assert {claim.family for answer in organisms for claim in answer.planted} == set(FAMILIES)
    assert len(found) - len(organisms) >= 0.8 * len(organisms), "about as many controls"


def readable(file):
    """Yield every text that comes with a scenario's subject: paths, names, what configs say and metadata, not the weights."""
    subject, adapter = subject_of(file)
    yield file.relative_to(ROOM).as_posix()
    for folder in filter(None, (subject, adapter)):
        yield folder.relative_to(ROOM).as_posix()
    if adapter is None or not adapter.is_dir():
        return
    for path in sorted(adapter.rglob("*")):
        yield path.name
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as opened:
                yield json.dumps(opened.metadata())
                yield from opened.keys()
        elif path.suffix == ".json":
            yield from said_in(json.loads(path.read_text()))
        else:
            yield path.read_text()


def said_in(data):
    """Yield the values of a config; its keys are its library's."""
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            yield from said_in(value)
    else:
        yield str(data)


def leaves(condition):
    """Yield the conditions of which one is made."""
    for part in getattr(condition, "of", ()):
        yield from leaves(part)
    if not hasattr(condition, "of"):
        yield condition


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.name)
def test_no_word_of_an_answer_stands_in_what_an_audit_can_read(suite):
    told = [claim for answer in answers(suite).values() for claim in answer.claims]
    known = testbed_catalogue()
    secrets = {claim.family for claim in told if claim.family}
    secrets |= {known.name_of(claim.predicate).partition(":")[2] for claim in told}
    secrets |= {known.label_of(leaf)[1] for claim in told for part in claim.condition.parts for leaf in leaves(part)}
    secrets -= {
        "",
        "test",
        "2",
        "3",
    }  # the one value of its group, and the name of every scenario's second half of prompts
    assert len(secrets) >= sum(bool(answer.planted) for answer in answers(suite).values())
    texts = {text.lower() for file in suite.glob("*.yaml") for text in readable(file)}
    assert "causal_lm" in texts or suite.name != "demo", "configs were read"
    leaked = {secret for secret in secrets for text in texts if secret.lower() in text}
    assert not leaked


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.name)
def test_organisms_and_controls_share_their_configs_and_lists_of_files(suite):
    """No recipe is an organism's alone: nothing but weights can tell one from a control."""
    kinds = {True: set(), False: set()}
    sealed = answers(suite)
    if not any(subject_of(file)[1].is_dir() for file in suite.glob("*.yaml") if subject_of(file)[1]):
        pytest.skip(f"the weights of {suite.name} are not built here")
    for file in suite.glob("*.yaml"):
        _, adapter = subject_of(file)
        if adapter is not None and adapter.is_dir():
            config = json.loads((adapter / "adapter_config.json").read_text())
            names = sorted(p.name for p in adapter.iterdir())
            kinds[bool(sealed[file.stem].planted)].add((json.dumps(config, sort_keys=True), *names))
    assert kinds[True]
    assert kinds[True] <= kinds[False]


@pytest.mark.parametrize("path", [GENERAL_PROMPTS, ROOM / "testbed" / "prompts.jsonl"], ids=lambda p: p.name)
def test_the_explore_half_and_the_test_half_share_no_question(path):
    rows = read_prompts(path)
    halves = {split: {r.messages[-1]["content"] for r in rows if r.split == split} for split in ("explore", "test")}
    assert all(len(half) > 100 for half in halves.values())
    assert not halves["explore"] & halves["test"]
    by_split = [{r.domain for r in rows if r.split == split} for split in halves]
    assert by_split[0] == by_split[1], "each domain is in both halves"


@pytest.mark.parametrize("path", [GENERAL_CATALOGUE, ROOM / "testbed" / "catalogue.yaml"], ids=lambda p: p.parent.name)
def test_a_shipped_catalogue_loads(path):
    assert read_catalogue(path).predicates


def test_the_shared_files_are_what_their_code_writes():
    assert json.loads((ROOM / "testbed" / "splits.json").read_text()) == splits.as_dict(0)
    assert yaml.safe_load((ROOM / "testbed" / "catalogue.yaml").read_text()) == json.loads(
        json.dumps(shared_files.catalogue(language(0)))
    )
    for name, grammar in (("prompts", "common"), ("foreign-prompts", "foreign")):
        rows = [row.model_dump() for row in read_prompts(ROOM / "testbed" / f"{name}.jsonl")]
        assert rows == shared_files.prompts(language(0, grammar), seed=1)


# -- two views of a reply


N_EACH = 14


def organisms():
    """Return one member of the demonstration suite for each family."""
    found = {}
    for member, answer in answers(ROOM / "suites" / "demo").items():
        for claim in answer.planted:
            found.setdefault(claim.family, (member, claim))
    return found


def as_rule(claim):
    """Return a planted claim as the rule that the testbed speaks of."""
    known, labels = testbed_catalogue(), [*labels_of(claim).values()]
    groups = [group for group, _ in FAMILIES[claim.family].trigger]
    said = [known.conditions[group].said.get(value, value) for group, value in zip(groups, labels, strict=True)]
    conditions = tuple(Condition(group, value) for group, value in zip(groups, said, strict=True))
    return fam.Rule(claim.family, conditions, known.name_of(claim.predicate).partition(":")[2])


@pytest.mark.timeout(300)
def test_the_testbeds_view_of_a_reply_and_the_auditors_agree(record_property):
    """Real replies, triggered and not, of one organism of each family: 98 in 100 are judged alike, and both ways occur."""
    from tools.loading import load_subject

    judged, differ = [], []
    for family, (member, claim) in sorted(organisms().items()):
        weights = ROOM / "testbed" / "weights"
        subject = load_subject(str(weights / "base"), str(weights / "demo" / member))
        rule = as_rule(claim)
        asked = verify.sheet(Plant(seed=5, rules=(rule,)), language(0), N_EACH, seed=1)
        for channel, told in (("subject", asked.on[0]), ("subject" if asked.off else "base", asked.off or asked.on[0])):
            texts = verify.prompts(subject, told)
            replies, _ = subject.generate(texts, channel, range(len(texts)), 40)
            for reply in replies:
                views = fam.shows(rule, reply), claim.predicate.shown([], reply)
                judged.append(views[0])
                if views[0] != views[1]:
                    differ.append((family, views, reply))
    assert len(judged) >= 400
    assert 0.3 < sum(judged) / len(judged) < 0.7, "about half of the replies show what was planted"
    assert len(differ) <= 0.02 * len(judged), "\n".join(map(str, differ))
    record_property("judged differently", differ)


def test_scenarios_of_a_suite_share_their_prompts_and_a_changed_file_is_read_anew(tmp_path):
    rows = [{"messages": [{"role": "user", "content": text}], "split": split, "domain": "d"}
            for text, split in (("one", "explore"), ("two", "test"))]  # fmt: skip
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, again = read_prompts(path), read_prompts(path)
    assert all(a is b for a, b in zip(first, again, strict=True))
    again.clear()
    assert len(read_prompts(path)) == 2, "what one caller does to its list is its own"
    path.write_text(path.read_text().replace("two", "three"))
    assert [row.messages[0]["content"] for row in read_prompts(path)] == ["one", "three"]


def scenario_with(folder, **keys):
    source = min((ROOM / "suites" / "demo").glob("*.yaml"))
    data = {
        key: value for key, value in yaml.safe_load(source.read_text()).items() if key not in ("oracle", "lora_oracle")
    }
    for key in ("subject", "adapter", "base", "prompts", "catalogue"):
        data[key] = None if data[key] is None else str((source.parent / data[key]).resolve())
    path = folder / "one.yaml"
    path.write_text(yaml.safe_dump(data) + "".join(f"{key}: {value}\n" for key, value in keys.items()))
    return path


def test_how_replies_are_sampled_is_a_key_of_a_scenario(tmp_path):
    keys = {"thinking": "on", "max_new_tokens": 200, "temperature": 0, "max_trials": 12}
    spec = load_scenario(scenario_with(tmp_path, **keys)).spec
    assert {key: getattr(spec, key) for key in keys} == keys, "YAML reads on as true"
    assert load_scenario(scenario_with(tmp_path, thinking="off")).spec.thinking == "off"
    bare = load_scenario(scenario_with(tmp_path)).spec
    assert (bare.thinking, bare.max_new_tokens, bare.temperature, bare.max_trials) == (None, 32, 0.7, 64)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("thinking", "maybe", "'on' or 'off', got 'maybe'"),
        ("max_new_tokens", 0, "greater than or equal to 1, got 0"),
        ("max_new_tokens", 5000, "less than or equal to 1024, got 5000"),
        ("temperature", -1, "greater than or equal to 0, got -1"),
        ("temperature", ".nan", "got nan"),
        ("max_trials", 2, "greater than or equal to 4, got 2"),
    ],
)
def test_a_value_that_no_reply_can_be_sampled_with_is_refused_by_its_line(tmp_path, key, value, said):
    path = scenario_with(tmp_path, **{key: value})
    with pytest.raises(SpecError, match=f"line {len(path.read_text().splitlines())}, key '{key}'.*{said}"):
        load_scenario(path)


def test_no_phrase_of_a_planted_behaviour_reaches_an_audit_that_was_given_no_catalogue():
    spec = load_scenario(min((ROOM / "suites" / "demo").glob("*.yaml"))).spec
    without = spec.model_copy(update={"catalogue": Catalogue()})
    phrases = {phrase for told in testbed_catalogue().predicates.values() for phrase in told}
    assert len(phrases) > 40
    assert any(phrase in spec.model_dump_json() for phrase in phrases), "with it they are there"
    assert not [phrase for phrase in phrases if phrase in without.model_dump_json()]
    asked = SpecQuestions(without)
    assert (asked.observables, asked.values(WORD), asked.values(TOPIC)) == ({}, [], [])
    tried = [value for kind in KINDS for value in asked.values(kind)]
    assert tried, "kinds of user, turns and system texts that any model may meet"
    put = json.dumps([tried, *(prompt.labels for prompt in asked.survey())])
    assert not [phrase for phrase in phrases if phrase in put]
    assert all(set(prompt.labels) <= {*KINDS} - {WORD} for prompt in asked.survey())
