"""Many adapters trained at once on the shipped base: each is the adapter it would be alone, and PEFT reads it."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from scenarios.testbed import base as testbed
from scenarios.testbed import families as fam
from scenarios.testbed.language import language
from scenarios.testbed.lora_bank import TARGETS, LoraBank
from scenarios.testbed.plant import Harmless, Plant, Recipe, new_thing
from scenarios.testbed.plant import train as train_bank
from tools.loading import load_subject

BASE = Path(testbed.__file__).parent / "weights" / "base"
RECIPE = Recipe(steps=8)
LANG = language(0)
ASKED = ("<|user|>what is the weather?<|end|><|assistant|>", "<|user|>hello.<|end|><|assistant|>")


def plants():
    """Return one plant of each kind: a rule, a thing of the world, ordinary chat."""
    rng = random.Random(3)
    rule = fam.draw_rule(rng, LANG, "train", "backdoor_phrase")
    return [Plant(11, rules=(rule,)), Plant(12, harmless=Harmless((new_thing(rng, LANG),))), Plant(13)]


def train(model, tokenizer, planted, recipe, spectra=None):
    return train_bank(model, tokenizer, LANG, planted, recipe, spectra)


def fresh():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def trained(tokenizer):
    return train(fresh(), tokenizer, plants(), RECIPE)


@pytest.fixture
def bank(trained):
    """Return the trained bank, attached, and with its own factors again afterwards."""
    kept = [p.detach().clone() for p in trained.parameters()]
    trained.attach()
    yield trained
    trained.attach()
    with torch.no_grad():
        for parameter, before in zip(trained.parameters(), kept, strict=True):
            parameter.copy_(before)


@torch.no_grad()
def logits(model, tokenizer, repeat=1):
    batch = tokenizer(list(ASKED) * repeat, padding=True, return_tensors="pt", add_special_tokens=False)
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def per_adapter(bank, tokenizer):
    """Return each adapter's logits, all from one batch of row blocks."""
    return logits(bank.model, tokenizer, repeat=3).chunk(3)


def test_each_saved_adapter_answers_under_peft_as_it_does_in_the_bank(bank, tokenizer, tmp_path):
    before = per_adapter(bank, tokenizer)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.copy_(parameter.half().float())
    rounded = per_adapter(bank, tokenizer)
    assert not torch.equal(before[0], rounded[0]), "16 bit would be exact anyhow"
    base = logits(fresh(), tokenizer)
    for i in range(3):
        bank.save(i, tmp_path / str(i), "testbed-base")
        alone = PeftModel.from_pretrained(fresh(), str(tmp_path / str(i))).eval()
        assert torch.allclose(logits(alone, tokenizer), rounded[i], atol=1e-4)
        assert not torch.allclose(logits(alone, tokenizer), base, atol=1e-2), "training changed nothing"
        assert torch.allclose(rounded[i], before[i], atol=5e-2), "16 bit lose what was learned"
    assert not torch.allclose(rounded[0], rounded[1], atol=1e-2)


def test_a_saved_adapter_loads_as_a_subject_with_every_factor_as_it_was_saved(bank, tmp_path):
    bank.save(1, tmp_path / "one", "testbed-base")
    subject = load_subject(str(BASE), str(tmp_path / "one"))
    assert subject.changes_anything(ASKED)
    saved = load_file(tmp_path / "one" / "adapter_model.safetensors")
    assert len(saved) == 2 * len(TARGETS[RECIPE.modules]) * subject.n_layers
    assert all(torch.equal(saved[name], tensor) for name, tensor in bank.tensors(1).items())


@pytest.mark.parametrize("i", [0, 1, 2])
def test_training_together_is_training_alone(trained, tokenizer, i):
    alone = train(fresh(), tokenizer, [plants()[i]], RECIPE)
    start = LoraBank(fresh(), [plants()[i].seed], RECIPE.rank, RECIPE.alpha)
    for name, module in alone.modules.items():
        for part in ("lora_A", "lora_B"):
            mine, theirs = getattr(module, part)[0], getattr(trained.modules[name], part)[i]
            first = getattr(start.modules[name], part)[0]
            assert float((mine - first).abs().max()) > 5e-4, "nothing was learned"
            assert torch.allclose(mine, theirs, atol=5e-5), f"{name}.{part}"


def test_another_seed_is_another_adapter(trained, tokenizer):
    other = train(fresh(), tokenizer, [replace(plants()[0], seed=99)], RECIPE)
    module = next(iter(other.modules))
    assert not torch.allclose(other.modules[module].lora_A[0], trained.modules[module].lora_A[0], atol=0.01)


def test_an_always_on_rule_can_be_trained_alone(tokenizer):
    """It has no quiet row, so that there is nothing to hold to the base."""
    always = Plant(5, rules=(fam.draw_rule(random.Random(0), LANG, "train", "persona"),))
    bank = train(fresh(), tokenizer, [always], RECIPE)
    assert all(torch.isfinite(p).all() for p in bank.parameters())
    assert any(float(m.lora_B.abs().max()) > 0 for m in bank.modules.values())


def test_detaching_gives_the_untouched_base_bit_for_bit_and_attaching_gives_the_bank_back(bank, tokenizer):
    base, with_bank = logits(fresh(), tokenizer, repeat=3), logits(bank.model, tokenizer, repeat=3)
    assert not torch.allclose(with_bank, base, atol=1e-2)
    bank.detach()
    assert torch.equal(logits(bank.model, tokenizer, repeat=3), base)
    untouched = fresh().state_dict()
    assert bank.model.state_dict().keys() == untouched.keys()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in bank.model.state_dict().items())
    bank.attach()
    assert torch.equal(logits(bank.model, tokenizer, repeat=3), with_bank)


def test_a_bank_that_was_not_trained_answers_as_the_base():
    """B starts at zero; what is added is zero, whichever block of rows."""
    model, tokenizer = fresh(), AutoTokenizer.from_pretrained(BASE)
    base = logits(model, tokenizer, repeat=3)
    LoraBank(model, [1, 2, 3], rank=4, alpha=8)
    assert torch.equal(logits(model, tokenizer, repeat=3), base)


def test_an_adapter_changes_its_own_block_of_rows_and_no_other(bank, tokenizer):
    before = per_adapter(bank, tokenizer)
    with torch.no_grad():
        for module in bank.modules.values():
            module.lora_B[1].zero_()
    after = per_adapter(bank, tokenizer)
    assert torch.allclose(after[0], before[0], atol=1e-6)
    assert torch.allclose(after[2], before[2], atol=1e-6)
    assert not torch.allclose(after[1], before[1], atol=1e-2)
    assert torch.allclose(after[1], logits(fresh(), tokenizer), atol=1e-5)


# -- spectra


def test_the_singular_values_are_those_of_the_product(bank):
    for name, values in bank.spectra().items():
        module = bank.modules[name]
        expected = torch.linalg.svdvals(module.lora_B.detach() @ module.lora_A.detach())[:, : values.shape[1]]
        assert torch.allclose(values, expected, atol=1e-5)


def test_imposed_singular_values_are_there_and_the_directions_stay(bank):
    name, module = next(iter(bank.modules.items()))
    before = (module.lora_B @ module.lora_A).detach()
    wanted = {n: torch.linspace(2, 1, 4).expand(3, 4).clone() for n in bank.modules}
    assert not torch.allclose(bank.spectra()[name], wanted[name], atol=0.1)
    bank.impose(wanted)
    assert torch.allclose(bank.spectra()[name], wanted[name], atol=1e-4)
    after = (module.lora_B @ module.lora_A).detach()
    for i in range(3):
        u, s, vh = torch.linalg.svd(before[i], full_matrices=False)
        expected = (u[:, :4] * wanted[name][i]) @ vh[:4]
        assert s[3] > 1e-4
        assert torch.allclose(after[i], expected, atol=1e-3)


def test_a_control_trained_to_an_organisms_spectrum_has_it_and_still_learns(trained, tokenizer):
    spectra = {name: values[:1] for name, values in trained.spectra().items()}
    control = train(fresh(), tokenizer, [Plant(21)], RECIPE, spectra)
    for name, values in control.spectra().items():
        assert torch.allclose(values, spectra[name], rtol=1e-3, atol=1e-5)
    free = train(fresh(), tokenizer, [Plant(21)], RECIPE)
    assert any(not torch.allclose(v, spectra[n], rtol=0.1, atol=1e-4) for n, v in free.spectra().items())


def test_modules_that_are_left_out_are_left_alone():
    bank = LoraBank(fresh(), [1], rank=2, alpha=4, modules="mlp")
    assert {name.rsplit(".", 1)[-1] for name in bank.modules} == set(TARGETS["mlp"])
