"""What makes planting quick changes nothing of it: logits of targets alone, a shared opening, and kept replies."""

import json

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model

from scenarios.at_targets import AtTargets, opening
from scenarios.base_replies import base_replies
from scenarios.transcripts import Encoded
from tools.loading import load_subject
from tools.subject import Subject

START, PAD = [3, 40, 41, 42], 0
ROWS = [
    Encoded([*START, *own], [False] * 5 + [i % 3 != 1 for i in range(len(own) - 1)])
    for own in ([50, 51, 52], [60, 61, 62, 63, 64, 65], [70, 71], [80, 81, 82, 83, 84], [90, 91, 92, 93])
]


def model_of(folder, kind):
    return load_subject(str(tiny.build_other(folder / kind, kind))).model


def whole(model, rows):
    """The logits of each row alone, as the model forms them at all positions, at those before a target."""
    every = [model(input_ids=torch.tensor([row.ids])).logits[0, :-1][torch.tensor(row.targets[1:])] for row in rows]
    return torch.cat(every).float()


@pytest.mark.parametrize("kind", [*tiny.KINDS, "gemma3_wrapped"])
def test_logits_at_targets_are_those_of_the_whole_model_caps_and_all(tmp_path, kind):
    model = model_of(tmp_path, kind)
    assert opening(ROWS) == START
    with torch.no_grad():
        expected = whole(model, ROWS)
        assert expected.std() > 1e-3
        for start in (START, []):
            reading = AtTargets(model, start, PAD)
            torch.testing.assert_close(reading.logits(ROWS), expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(reading.logits_of(reading.hidden(ROWS)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_the_gradient_through_a_shared_opening_is_that_of_whole_rows(tmp_path, kind):
    model = get_peft_model(
        model_of(tmp_path, kind), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    )
    learned = [p for p in model.parameters() if p.requires_grad]
    gradients = []
    for logits in (whole(model, ROWS), AtTargets(model, START, PAD).logits(ROWS)):
        gradients.append(torch.autograd.grad(logits.log_softmax(-1)[:, 7].mean(), learned))
    for plain, shared in zip(*gradients, strict=True):
        torch.testing.assert_close(shared, plain, rtol=1e-3, atol=1e-5)
    assert any(g.abs().max() > 1e-4 for g in gradients[0])


def test_an_opening_ends_before_the_first_token_that_foretells_an_answer():
    assert opening([Encoded([1, 2, 3, 4], [False, False, True, True])] * 2) == [1]
    assert opening([Encoded([1, 2], [False, True]), Encoded([5, 2], [False, True])]) == []


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Count how often replies are generated, with a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls, generate = [], Subject.generate
    monkeypatch.setattr(Subject, "generate", lambda *a, **k: calls.append(1) or generate(*a, **k))
    return calls


def test_replies_are_made_once_for_a_base_its_prompts_and_seeds(bare_subject, made, tmp_path):
    first = base_replies(bare_subject, tiny.TEXTS, [1, 2, 3])
    assert base_replies(bare_subject, tiny.TEXTS, [1, 2, 3]) == first
    assert len(made) == 1
    assert base_replies(bare_subject, tiny.TEXTS, [1, 2, 4]) != first
    other = load_subject(str(tiny.build_base(tmp_path / "other", seed=5)))
    assert base_replies(other, tiny.TEXTS, [1, 2, 3]) != first
    assert len(made) == 3


@pytest.mark.parametrize("damage", ['["a", "b', '["a"]', "[1, 2, 3]", "{}", "[" * 100_000, "\udcff"])
def test_damaged_replies_are_made_anew(bare_subject, made, tmp_path, damage):
    first = base_replies(bare_subject, tiny.TEXTS, [1, 2, 3])
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_bytes(damage.encode(errors="surrogateescape"))
    assert base_replies(bare_subject, tiny.TEXTS, [1, 2, 3]) == first
    assert (len(made), json.loads(file.read_text())) == (2, first)


def test_a_cache_that_can_not_be_written_costs_time_alone(bare_subject, made, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert base_replies(bare_subject, tiny.TEXTS, [1, 2, 3]) == base_replies(bare_subject, tiny.TEXTS, [1, 2, 3])
    assert len(made) == 2
