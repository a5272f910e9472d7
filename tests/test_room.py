"""What a call holds in memory at once is bounded, and what it comes to is not changed by the bound."""

import pytest
import tiny
import torch

from tools import channels
from tools import subject as subjects
from tools.channels import MAX_BATCH
from tools.loading import load_subject
from tools.model_diff.kl import KlArgs, ModelDiff, most_gained, token_kl
from tools.model_diff.scan import Scan, ScanArgs

KINDS = (*tiny.KINDS, "gemma3_wrapped")


def asked(n=20):
    """Return prompts of different lengths, with a condition on every other one."""
    return [
        {"messages": [{"role": "user", "content": f"{tiny.SENTENCES[i % 4]} {i}" * (1 + i % 3)}],
         "labels": {"topic": "ab"[i % 2], "word": str(i % 4)}}
        for i in range(n)
    ]  # fmt: skip


def kl_args(n=20):
    return KlArgs.model_validate({"prompts": asked(n), "max_new_tokens": 6})


def scan_args(n=20):
    return ScanArgs.model_validate(
        {"bare": asked(4), "framed": [{**p, "bare": i % 4} for i, p in enumerate(asked(n))], "max_new_tokens": 6}
    )


CALLS = {"model_diff": (ModelDiff(), kl_args), "scan": (Scan(), scan_args)}


@pytest.fixture(scope="module", params=KINDS)
def other(request, tmp_path_factory):
    """Return a subject of each architecture that is a full fine-tune of its base."""
    folder = tmp_path_factory.mktemp(request.param)
    base = tiny.build_other(folder / "base", request.param)
    return load_subject(str(tiny.build_other(folder / "tuned", request.param, seed=1)), base=str(base))


@pytest.fixture
def narrow(monkeypatch):
    """Leave batches no room but half of a tiny model's weights."""
    monkeypatch.setattr(channels, "ROOM", 0)


def heads_of(subject, sizes):
    """Have every forward pass note the shape of its logits."""
    models = [m for m in (subject.model, subject.tuned) if m is not None]
    for model in models:
        model.get_output_embeddings().register_forward_hook(lambda m, i, out: sizes.append(tuple(out.shape)))


def test_logits_of_the_last_positions_are_those_of_a_whole_pass(other):
    batch = other.encode(tiny.TEXTS)
    for channel in ("subject", "base"):
        with torch.no_grad(), other.channel(channel) as model:
            whole = model(**other.inputs(batch, channel)).logits.float()
        assert torch.equal(other.logits(batch, channel), whole)
        for n in (1, 3, batch.ids.shape[1]):
            kept = other.logits(batch, channel, n)
            assert kept.shape == whole[:, -n:].shape
            torch.testing.assert_close(kept, whole[:, -n:], atol=1e-5, rtol=1e-5)


def test_scores_are_those_of_the_whole_batch_at_once(other):
    heads = [other.render(p["messages"]) for p in asked(6)]
    tails = ["the river", "a fox ran", "", "old town", "night", "copper kettle by the river"]
    end = other.tokenizer.eos_token
    batch = other.encode([h + t + end for h, t in zip(heads, tails, strict=True)])
    n_reply = [
        int(batch.mask[i].sum()) - len(other.tokenizer.encode(head, add_special_tokens=False))
        for i, head in enumerate(heads)
    ]
    kept = max(n_reply) + 1
    p, q = other.logits(batch, "subject", kept), other.logits(batch, "base", kept)
    kl, best = token_kl(p, q), most_gained(p, q)
    (scored,) = ModelDiff()._score(other, heads, tails, ("subject",), {"subject": 0, "base": 0})
    for i, (s, n) in enumerate(zip(scored, n_reply, strict=True)):
        torch.testing.assert_close(torch.tensor(s.kl_nats), kl[i, kept - 1 - n : kept - 1], atol=1e-5, rtol=1e-4)
        assert s.gained == [other.decode(token) for token in best[i, kept - 1 - n : kept - 1].tolist()]
        assert "".join(s.tokens).strip() == (tails[i] + end).strip()
    assert max(max(s.kl_nats) for s in scored) > 0.1, "there is something to score"
    nll = -other.logits(batch, "subject")[:, :-1].log_softmax(-1).gather(-1, batch.ids[:, 1:, None])[..., 0]
    found = Scan()._surprise(other, heads, tails, "subject", {"subject": 0}, "x")
    for i, one in enumerate(found):
        torch.testing.assert_close(one, nll[i, -len(one) :], atol=1e-5, rtol=1e-5)
        assert len(one) == len(other.tokenizer.encode(tails[i] + end, add_special_tokens=False))


@pytest.mark.parametrize("name", CALLS)
def test_a_small_room_changes_no_reading(subject, monkeypatch, name):
    tool, args = CALLS[name]
    whole = tool.run(subject, args(), seed=0)
    monkeypatch.setattr(channels, "ROOM", 0)
    assert subject.rows_that_fit(2 * 7, 80) < 20 < MAX_BATCH
    parts = tool.run(subject, args(), seed=0)
    assert parts.tokens == whole.tokens
    assert [r.detail.get("prompt") for r in parts.readings] == [r.detail.get("prompt") for r in whole.readings]
    for one, other in zip(parts.readings, whole.readings, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-4)
        assert one.controls == pytest.approx(other.controls, abs=1e-4)


@pytest.mark.parametrize("name", CALLS)
def test_no_forward_pass_has_more_logits_than_its_room(subject, monkeypatch, name):
    tool, args = CALLS[name]
    sizes = []
    heads_of(subject, sizes)
    tool.run(subject, args(), seed=0)
    room = sum(p.nbytes for n, p in subject.model.named_parameters() if ".lora_" not in n) // 4
    assert max(b * n * v * 4 for b, n, v in sizes) > room, "with room enough the batches are larger"
    sizes.clear()
    monkeypatch.setattr(channels, "ROOM", 0)
    tool.run(subject, args(), seed=0)
    assert all(2 * b * n * v * 4 <= room or b == 1 for b, n, v in sizes), "two channels' logits are held at once"
    prompts = [subject.render(p["messages"]) for p in asked()]
    assert max(n for _, n, _ in sizes) < subject.encode(prompts).ids.shape[1], "prompts have no logits"


def test_whether_anything_changes_is_asked_row_by_row_and_no_further_than_needed(subject, bare_subject, monkeypatch):
    texts = [subject.render(p["messages"]) for p in asked(16)]
    monkeypatch.setattr(channels, "ROOM", 0)
    sizes, bare = [], []
    heads_of(subject, sizes)
    heads_of(bare_subject, bare)
    assert subject.changes_anything(texts)
    assert not bare_subject.changes_anything(texts)
    assert len(sizes) == 2
    assert sum(b for b, _, _ in bare) == 32, "every row was read on both channels"
    assert len(bare) > 2


def test_a_change_in_the_last_row_alone_is_seen(subject, bare_subject, narrow, monkeypatch):
    texts = [bare_subject.render(p["messages"]) for p in asked(16)]
    plain = bare_subject.logits
    last = bare_subject.encode(texts).ids[-1]

    def logits(batch, channel, *more):
        out = plain(batch, channel, *more)
        return out + (batch.ids == last).all(1)[:, None, None] if channel == "subject" else out

    monkeypatch.setattr(bare_subject, "logits", logits)
    assert bare_subject.changes_anything(texts)


def test_replies_are_the_same_in_whatever_room_and_only_the_last_position_is_read(subject, monkeypatch):
    texts = [subject.render(p["messages"]) for p in asked(24)]
    whole = subject.generate(texts, "subject", range(24), 8)
    sizes = []
    heads_of(subject, sizes)
    monkeypatch.setattr(channels, "ROOM", 0)
    monkeypatch.setattr(subjects, "NOISE_COPIES", 24)
    assert subject.generate(texts, "subject", range(24), 8) == whole
    assert max(b for b, _, _ in sizes) < 24
    assert {n for _, n, _ in sizes} == {1}


def test_a_larger_vocabulary_or_cache_leaves_fewer_rows_and_a_small_model_has_all(subject):
    assert subject.rows_that_fit(50, 400) == MAX_BATCH
    n = 12 * channels.ROOM // (300 * 4) // 12
    assert subject.rows_that_fit(n) == 1
    assert subject.rows_that_fit(n // 8) in (8, 9)
    per_position = (
        2 * 3 * 2 * 8 + 6 * 32 + 3 * 48
    ) * 4  # keys and values of 3 layers, what passes through a block, bytes
    assert subject.rows_that_fit(0, channels.ROOM // per_position // 10) == 10
    assert subject.rows_that_fit(10**9) == 1, "one row is always read"


@pytest.mark.parametrize(("dtype", "in_one_piece"), [("bfloat16", True), ("float16", True), ("float32", False)])
def test_in_half_precision_the_head_is_not_copied_for_every_row(base_folder, lora_folder, dtype, in_one_piece):
    """PyTorch copies it where the head's input is a slice; float32 needs no copy and is left as published code has it."""
    subject = load_subject(str(base_folder), str(lora_folder), dtype=dtype)
    seen = []
    subject.model.get_output_embeddings().register_forward_pre_hook(lambda m, i: seen.append(i[0].is_contiguous()))
    subject.logits(subject.encode(tiny.TEXTS), "subject", 3)
    subject.generate(tiny.TEXTS, "base", range(3), 4)
    assert all(seen) == in_one_piece
    assert len(seen) >= 2


class Shelf:
    """Keeps batches in memory, and stops the call where it is told to."""

    def __init__(self):
        self.kept, self.begun, self.stop_at = {}, [], None

    def get(self, key):
        return self.kept.get(key)

    def begin(self, key, tokens):
        if len(self.begun) == self.stop_at:
            raise KeyboardInterrupt
        assert all(n >= 0 for n in tokens.values())
        self.begun.append(key)

    def put(self, key, value):
        assert len(value) < 20_000, "logits are not kept"
        self.kept[key] = value


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_was_cut_off_goes_on_from_its_finished_batches(subject, narrow, name):
    tool, args = CALLS[name]
    whole = tool.run(subject, args(), seed=0)
    subject.keeper = shelf = Shelf()
    shelf.stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        tool.run(subject, args(), seed=0)
    assert len(shelf.kept) == 5
    shelf.stop_at = None
    again = tool.run(subject, args(), seed=0)
    assert again == whole
    assert len(shelf.begun) == len(set(shelf.begun)) == len(shelf.kept) > 10
