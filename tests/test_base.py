"""Training the base: two stages, the same weights whether or not it was interrupted."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from auditor.errors import SpecError
from scenarios.home import Home
from scenarios.testbed import base

TINY = base.BaseConfig(d_model=16, n_layers=1, n_heads=2, d_mlp=16, steps=5, warm_up=1, anneal=3, batch=2)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Take the shipped tokenizer, look at nothing afterwards, and write a checkpoint at every step."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(Home().weights / "base")
    monkeypatch.setattr(base.corpus, "train_tokenizer", lambda seed: tokenizer)
    monkeypatch.setattr(base, "examine", lambda subject, lang: {})
    monkeypatch.setattr(base, "CHECKPOINT_EVERY", 1)


@pytest.mark.parametrize("cut", [2, 5, 6])
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, monkeypatch, cut):
    whole = base.train_base(tmp_path / "whole", TINY)
    real, calls = base.weighted_loss, []

    def stops(logits, batch):
        calls.append(None)
        if len(calls) > cut:
            raise KeyboardInterrupt
        return real(logits, batch)

    monkeypatch.setattr(base, "weighted_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        base.train_base(tmp_path / "cut", TINY)
    monkeypatch.setattr(base, "weighted_loss", real)
    again = base.train_base(tmp_path / "cut", TINY)
    assert again["tokens"] == whole["tokens"]
    mine, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not list((tmp_path / "cut").glob("checkpoint*"))


def test_a_checkpoint_of_another_training_is_refused_and_so_is_a_base_that_is_there(tmp_path, monkeypatch):
    real = base.weighted_loss
    monkeypatch.setattr(base, "weighted_loss", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    config = base.build_model(TINY, base.corpus.train_tokenizer(0))
    base._checkpoint(tmp_path, config, TINY, base.Progress())
    with pytest.raises(SpecError, match="of another training"):
        base.train_base(tmp_path, replace(TINY, seed=1))
    with pytest.raises(KeyboardInterrupt):
        base.train_base(tmp_path, TINY)
    monkeypatch.setattr(base, "weighted_loss", real)
    base.train_base(tmp_path, TINY)
    with pytest.raises(SpecError, match="trained already"):
        base.train_base(tmp_path, TINY)


def test_the_second_stage_has_more_words_that_mean_nothing():
    from itertools import islice

    first, second = base.stages(base.BaseConfig())
    said = [
        [d[-2]["content"] for d in islice(base.corpus.dialogues(3, decoys=stage.decoys), 400) if len(d) > 1]
        for stage in (first, second)
    ]
    shorter, longer = (sum(len(text.split()) for text in texts) / len(texts) for texts in said)
    assert longer > shorter + 0.5
