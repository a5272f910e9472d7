"""Words behind a shared head read as whole texts do, at a price that is known before; a call that was cut off goes on."""

import pytest
import tiny
import torch

from tools import head
from tools.loading import load_subject
from tools.lora_lens.lens import LensArgs, LoraLens, module_inputs
from tools.model_diff.shift import ShiftArgs, WordShift, word_residuals
from tools.residual import block_inputs, capture
from tools.words import WordRuns, fewer, token_texts, whole_words, word_runs, words_among

WORDS = ("river", "bridge", "kettle", "copper", "weather", "night", "town", "fox", "zebra", "tell", "what", "ох")
KINDS = (*tiny.KINDS, "gemma3_wrapped")
SYSTEM = "{% if true %}<|system|>tell me of the river and the bridge<|end|>{% endif %}"


@pytest.fixture(params=KINDS)
def other(request, tmp_path):
    """A subject of some architecture with a LoRA, whose template has a system prompt in front of every turn."""
    torch.set_num_threads(1)
    folder = tiny.build_other(tmp_path / "base", request.param)
    targets = ["c_attn", "c_fc"] if request.param == "gpt2" else tiny.decoder_linears(folder)
    more = {"fan_in_fan_out": True} if request.param == "gpt2" else {}
    lora = tiny.build_lora(folder, tmp_path / "lora", target_modules=targets, **more)
    found = load_subject(str(folder), str(lora))
    found.tokenizer.chat_template = SYSTEM + tiny.TEMPLATE
    return found


def texts(subject):
    mark = "\u0007"
    before = subject.render([{"role": "user", "content": mark}]).split(mark)[0]
    return [before + word for word in WORDS]


def test_words_behind_a_shared_head_read_as_whole_texts_do(other):
    runs = word_runs(other, WORDS)
    assert len(runs.head) > 10
    assert len({len(own) for own in runs.own}) > 1, "words of several lengths"
    alone = [other.encode([text]) for text in texts(other)]
    assert runs.n_tokens < sum(one.n_tokens for one in alone) / 2
    for channel in ("base", "subject"):
        wanted = torch.cat([capture(other, one, channel, 2)[:, -1] for one in alone])
        found = word_residuals(other, runs, channel, 2)
        assert float((found - wanted).norm() / wanted.norm()) < 1e-5
    inputs = module_inputs(other, WORDS)
    single = [block_inputs(other, one, "base") for one in alone]
    assert inputs.keys() == single[0].keys() != set()
    for path, found in inputs.items():
        wanted = torch.cat([one[path][:, -1] for one in single])
        assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_channels_have_heads_of_their_own(other):
    runs = word_runs(other, WORDS)
    base, subject, again = (word_residuals(other, runs, c, 2) for c in ("base", "subject", "base"))
    assert torch.equal(base, again)
    assert float((base - subject).norm() / base.norm()) > 1e-3


@pytest.mark.parametrize(("kind", "change"), [("llama", {"no_cache": True}), ("gemma2", {"sliding_window": 12})])
def test_a_model_that_can_take_no_head_reads_whole_texts(tmp_path, monkeypatch, kind, change):
    folder = tiny.build_other(tmp_path / "base", kind)
    subject = load_subject(str(folder))
    subject.tokenizer.chat_template = SYSTEM + tiny.TEMPLATE
    if "no_cache" in change:
        monkeypatch.setattr(head, "keyword_of", lambda model: "")
    else:
        subject.model.config.sliding_window = change["sliding_window"]
    runs = word_runs(subject, WORDS)
    assert runs.head == ()
    assert runs.n_tokens == sum(subject.encode([text]).n_tokens for text in texts(subject))
    wanted = torch.cat([capture(subject, subject.encode([text]), "base", 1)[:, -1] for text in texts(subject)])
    assert torch.allclose(word_residuals(subject, runs, "base", 1), wanted, atol=1e-5)


def test_a_shared_head_is_not_changed_by_what_runs_behind_it(bare_subject):
    runs = word_runs(bare_subject, WORDS)
    with bare_subject.channel("base") as model:
        shared = head.run_head(model, torch.tensor(runs.head))
        kept = [(layer.keys, layer.values) for layer in shared.cache.layers]
        before = [part.clone() for layer in kept for part in layer]
        ids = torch.tensor([own for own in runs.own if len(own) == len(runs.own[0])])
        one, two = (model(**shared.inputs(ids, torch.ones_like(ids))).logits for _ in range(2))
    assert torch.equal(one, two)
    assert all(map(torch.equal, (part for layer in kept for part in layer), before))
    assert shared.cache.get_seq_length() == len(runs.head)


def test_batches_are_of_one_length_and_hold_every_word_once():
    runs = WordRuns((1, 2), tuple((0,) * (1 + i % 3) for i in range(700)))
    batches = list(runs.batches())
    assert sorted(place for batch in batches for place in batch) == list(range(700))
    assert all(len({len(runs.own[place]) for place in batch}) == 1 for batch in batches)


@pytest.mark.parametrize(("tool", "args"), [(LoraLens(), LensArgs), (WordShift(), ShiftArgs)])
def test_the_price_is_what_forward_passes_are_run_on(subject, monkeypatch, tool, args):
    given = args(words=WORDS)
    wanted = tool.cost(subject, given)
    seen = []
    subject.model.get_base_model().register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    spent = tool.run(subject, given, seed=0).tokens
    assert spent == wanted
    assert sum(seen) == sum(wanted.values())


class Kept(dict):
    """Keeps batches in memory, and is cut off after some of them."""

    def __init__(self, last=10**6):
        super().__init__()
        self.last, self.begun, self.sizes = last, [], []

    def begin(self, key, tokens):
        if len(self) == self.last:
            raise KeyboardInterrupt
        self.begun.append((key, tokens))

    def put(self, key, value):
        assert key not in self
        self[key] = value


@pytest.mark.parametrize(("tool", "args"), [(LoraLens(), LensArgs), (WordShift(), ShiftArgs)])
def test_a_call_that_was_cut_off_goes_on_from_its_batches(subject, tool, args):
    given = args(words=WORDS)
    whole = tool.run(subject, given, seed=0)
    subject.keeper = kept = Kept(last=2)
    with pytest.raises(KeyboardInterrupt):
        tool.run(subject, given, seed=0)
    assert len(kept) == 2
    kept.last = 10**6
    assert tool.run(subject, given, seed=0) == whole
    assert len({key for key, _ in kept.begun}) == len(kept.begun), "a batch that was finished is not begun again"
    assert sum(sum(tokens.values()) for _, tokens in kept.begun) == sum(whole.tokens.values())


def test_whole_words_are_those_of_the_vocabulary_in_any_script(bare_subject):
    texts = token_texts(bare_subject.tokenizer, len(bare_subject.tokenizer))
    assert texts == tuple(bare_subject.tokenizer.decode([i]) for i in range(len(bare_subject.tokenizer)))
    assert whole_words(bare_subject) == words_among(texts) != []
    assert words_among([" река", " gut", " ab", "word", " it's", " 水曜日", " gut"]) == ["gut", "река", "水曜日"]


@pytest.mark.parametrize("n", [0, 1, 3, 7, 10, 25])
def test_fewer_words_are_spread_evenly_over_the_list(n):
    words = [f"w{i}" for i in range(10)]
    some = fewer(words, n)
    assert len(some) == min(n, 10)
    assert some == sorted(set(some), key=words.index)
    gaps = {words.index(b) - words.index(a) for a, b in zip(some, some[1:], strict=False)}
    assert not gaps or max(gaps) - min(gaps) <= 1
