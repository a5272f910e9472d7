"""The baseline on norms and spectra: right where size tells, at chance where it doesn't."""

import json
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from auditor.config import AuditSpec
from scenarios.bench import Job, fingerprint_of
from scenarios.fingerprint import KINDS, Print, features, fingerprint
from scenarios.grading import Answer
from tools.claims.claim import Claim
from tools.claims.predicates.says import Says
from tools.probe.linear import auroc


def drawn(n, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, generator=generator, dtype=torch.float64) + shift for _ in range(n)]


def prints(organisms, controls, twins=False):
    """Return what the classifier sees; of twins, control i has the group of organism i."""
    found = [Print(x, True, f"o{i}") for i, x in enumerate(organisms)]
    return found + [Print(x, False, f"{'o' if twins else 'c'}{i}") for i, x in enumerate(controls)]


def test_what_differs_in_size_is_told_apart_and_what_does_not_is_not():
    found = fingerprint(prints(drawn(100, 1.5, 0), drawn(100, 0.0, 1)))
    same = fingerprint(prints(drawn(100, 0.0, 2), drawn(100, 0.0, 3)))
    assert found.auroc > 0.95
    assert found.interval[0] > 0.9
    assert same.interval[0] < 0.5 < same.interval[1]
    assert (found.n_organisms, found.n_controls) == (100, 100)


def test_a_control_that_is_its_organisms_twin_is_at_chance_and_never_below():
    twins = drawn(40, 0.0, 4)
    kept_together = fingerprint(prints(twins, [x.clone() for x in twins], twins=True))
    assert kept_together.auroc == pytest.approx(0.5, abs=1e-9)
    apart = fingerprint(prints(twins, [x.clone() for x in twins]))
    assert apart.auroc < 0.45, "on two sides of a fold, each is taken for the other"


def test_its_pieces_agree_with_scikit_learn():
    x = torch.stack([*drawn(60, 0.5, 0), *drawn(60, 0.0, 1)])
    y = torch.tensor([True] * 60 + [False] * 60)
    scores = torch.tensor(LogisticRegression().fit(x, y).decision_function(x))
    assert auroc(scores, y) == pytest.approx(roc_auc_score(y, scores), abs=1e-6)


def test_features_are_those_of_the_dense_change_and_do_not_depend_on_how_it_is_factored(base_folder, tmp_path):
    folder = tiny.build_lora(base_folder, tmp_path / "lora", seed=3)
    found = features(folder, base_folder)
    assert len(found) == 3 * len(KINDS) + 2
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(key for key in tensors if "q_proj.lora_A" in key)
    assert found[-2] == tensors[name].shape[0]
    energy = 0.0
    import json

    config = json.loads((folder / "adapter_config.json").read_text())
    for key, a in tensors.items():
        if "q_proj.lora_A" in key:
            b = tensors[key.replace("lora_A", "lora_B")]
            energy += float((config["lora_alpha"] / config["r"] * b.double() @ a.double()).square().sum())
    assert float(found[0]) == pytest.approx(0.5 * torch.tensor(energy).log().item(), abs=1e-6)


def test_of_too_few_nothing_is_said():
    assert fingerprint(prints(drawn(2, 0.0, 0), drawn(50, 0.0, 1))) is None


def test_a_bench_keeps_a_control_with_the_organism_whose_spectrum_it_has(base_folder, tmp_path):
    jobs, answers, records = [], {}, []
    claim = Claim(family="f", predicate=Says(any_of=("x",)), statement="s")
    for i in range(6):
        folder = tiny.build_lora(base_folder, tmp_path / f"o{i}", seed=i)
        shutil.copytree(folder, tmp_path / f"c{i}")
        for name, claims in ((f"o{i}", [claim]), (f"c{i}", [])):
            spec = AuditSpec.model_construct(
                subject=str(base_folder), adapter=str(tmp_path / name), base=str(base_folder)
            )
            jobs.append(Job(name, 0, spec, "db"))
            answers[name] = Answer(claims=claims)
            records.append({"id": name, "partner": "" if claims else f"o{i}"})
    told = tmp_path / "records.json"
    assert fingerprint_of(jobs, answers, told)["auroc"] < 0.45, "nobody said who is whose twin"
    told.write_text(json.dumps({"members": records}))
    found = fingerprint_of(jobs, answers, told)
    assert found["auroc"] == pytest.approx(0.5, abs=1e-9)
    assert (found["n_organisms"], found["n_controls"]) == (6, 6)
    zero = {**answers, **{f"c{i}": Answer(claims=[], verdict="invalid") for i in range(6)}}
    assert fingerprint_of(jobs, zero, told) is None, "what changes nothing is left out"
