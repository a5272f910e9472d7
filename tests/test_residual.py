"""Layer L is the residual stream after block L: transformers' `hidden_states` are the reference."""

import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from tools.batch import Encoded
from tools.errors import ToolInputError
from tools.loading import load_subject
from tools.residual import block_inputs, blocks, capture, check_layer, hooked

READ_THE_RESIDUAL = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}


def hidden_states(subject, batch, channel):
    with torch.no_grad(), subject.channel(channel) as model:
        return model(input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True).hidden_states


def n_hooks(subject):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.model.modules())


def fail_while_hooked(subject, n_expected):
    with hooked(blocks(subject.model)[1], lambda resid: None):
        assert n_hooks(subject) == n_expected
        raise RuntimeError("in the middle")


@pytest.mark.parametrize("channel", ["subject", "base"])
def test_what_is_captured_after_a_block_is_the_next_hidden_state(subject, channel):
    batch = subject.encode(tiny.TEXTS)
    states = hidden_states(subject, batch, channel)
    for layer in range(subject.n_layers - 1):
        resid = capture(subject, batch, channel, layer)
        assert torch.equal(resid, states[layer + 1])
        assert not torch.equal(resid, states[layer])


@pytest.mark.parametrize("channel", ["subject", "base"])
def test_the_last_block_is_captured_before_the_final_norm(subject, channel):
    batch = subject.encode(tiny.TEXTS)
    states = hidden_states(subject, batch, channel)
    resid = capture(subject, batch, channel, subject.n_layers - 1)
    assert not torch.allclose(resid, states[-1])
    norm = subject.model.get_base_model().model.norm
    assert torch.equal(norm(resid), states[-1])


def test_the_two_channels_have_different_residuals(subject):
    batch = subject.encode(tiny.TEXTS)
    for layer in range(subject.n_layers):
        assert not torch.allclose(
            capture(subject, batch, "subject", layer), capture(subject, batch, "base", layer), atol=0.1
        )


@pytest.mark.parametrize("layer", [-1, 3, 99])
def test_a_layer_out_of_range_is_refused_with_the_layers_there_are(subject, layer):
    message = rf"layer {layer} is out of range: the subject has layers 0\.\.2; pass one of those"
    with pytest.raises(ToolInputError, match=message):
        check_layer(subject, layer)
    with pytest.raises(ToolInputError, match=message):
        capture(subject, subject.encode(tiny.TEXTS), "subject", layer)


def test_an_unknown_channel_is_refused(subject):
    with pytest.raises(ToolInputError, match="the channels are base, subject"):
        capture(subject, subject.encode(tiny.TEXTS), "teacher", 0)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_padding_on_the_left_changes_no_residual(subject, layer):
    batch = subject.encode(tiny.TEXTS)
    resid = capture(subject, batch, "subject", layer)
    assert int(batch.mask[2].sum()) < batch.mask.shape[1], "the batch has padding to begin with"
    for row, text in enumerate(tiny.TEXTS):
        alone = capture(subject, subject.encode([text]), "subject", layer)[0]
        scale = float(alone.norm(dim=-1).max())
        assert torch.allclose(resid[row, -len(alone) :] / scale, alone / scale, atol=1e-5, rtol=0)


def test_hooks_are_gone_after_a_read_and_after_an_exception(subject):
    batch = subject.encode(tiny.TEXTS)
    outside = Encoded(batch.ids + 1000, batch.mask)
    before = n_hooks(subject)
    with pytest.raises(IndexError):
        capture(subject, outside, "subject", 1)
    with pytest.raises(IndexError):
        block_inputs(subject, outside, "base")
    with pytest.raises(RuntimeError, match="in the middle"):
        fail_while_hooked(subject, n_expected=before + 1)
    capture(subject, batch, "subject", 1)
    block_inputs(subject, batch, "base")
    assert n_hooks(subject) == before


def test_an_edit_reaches_the_blocks_above_and_none_below(subject):
    batch = subject.encode(tiny.TEXTS)
    before = [capture(subject, batch, "base", layer) for layer in range(3)]
    with hooked(blocks(subject.model)[1], lambda resid: resid + 1.0):
        edited = [capture(subject, batch, "base", layer) for layer in range(3)]
    assert torch.equal(edited[0], before[0])
    assert torch.equal(edited[1], before[1] + 1.0)
    assert not torch.allclose(edited[2], before[2] + 1.0, atol=1e-3)
    assert not torch.allclose(edited[2], before[2], atol=1e-3)


def test_a_hook_that_returns_nothing_changes_nothing(subject):
    batch = subject.encode(tiny.TEXTS)
    before = subject.logits(batch, "subject")
    with hooked(blocks(subject.model)[1], lambda resid: None):
        assert torch.equal(subject.logits(batch, "subject"), before)


def test_what_was_captured_does_not_change_under_a_later_pass(subject):
    batch = subject.encode(tiny.TEXTS)
    resid = capture(subject, batch, "base", 0)
    kept = resid.clone()
    resid_other = capture(subject, subject.encode(list(tiny.TEXTS[::-1])), "subject", 0)
    assert torch.equal(resid, kept)
    assert resid_other.shape == resid.shape


def test_every_known_architecture_gives_its_blocks():
    tiny_gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=10, n_positions=8))
    tiny_neox = GPTNeoXForCausalLM(
        GPTNeoXConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=10)
    )
    assert blocks(tiny_gpt2) is tiny_gpt2.transformer.h
    assert blocks(tiny_neox) is tiny_neox.gpt_neox.layers
    with pytest.raises(ToolInputError, match="Linear keeps its decoder blocks in no known place"):
        blocks(torch.nn.Linear(1, 1))


# -- what a block's linear modules read


def test_a_block_reads_the_normed_residual_of_the_block_below(subject):
    batch = subject.encode(tiny.TEXTS)
    inputs, states = block_inputs(subject, batch, "base"), hidden_states(subject, batch, "base")
    layers = subject.model.get_base_model().model.layers
    for layer in range(subject.n_layers):
        expected = layers[layer].input_layernorm(states[layer])
        for name in ("q_proj", "k_proj", "v_proj"):
            assert torch.equal(inputs[f"model.layers.{layer}.self_attn.{name}"], expected)
        assert not torch.allclose(inputs[f"model.layers.{layer}.mlp.up_proj"], expected, atol=0.1)


def test_block_inputs_are_the_same_with_and_without_an_adapter_loaded(subject, bare_subject):
    batch = subject.encode(tiny.TEXTS)
    with_adapter, without = (block_inputs(s, batch, "base") for s in (subject, bare_subject))
    assert with_adapter.keys() == without.keys()
    assert all(torch.equal(with_adapter[path], without[path]) for path in without)


def test_block_inputs_on_the_subject_name_the_bases_modules_and_no_factor_of_the_adapter(subject):
    batch = subject.encode(tiny.TEXTS)
    assert block_inputs(subject, batch, "subject").keys() == block_inputs(subject, batch, "base").keys()


def test_block_inputs_are_those_of_the_modules_that_read_the_residual_stream(bare_subject):
    inputs = block_inputs(bare_subject, bare_subject.encode(tiny.TEXTS), "base")
    assert {path.rsplit(".", 1)[-1] for path in inputs} - {"lm_head"} == READ_THE_RESIDUAL


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_padding_moves_no_position_whether_positions_are_learned_or_turned(tmp_path, kind):
    subject = load_subject(str(tiny.build_other(tmp_path / "base", kind)))
    batch = subject.encode(tiny.TEXTS)
    logits, resid = subject.logits(batch, "base"), capture(subject, batch, "base", 1)
    assert len({int(n) for n in batch.mask.sum(1)}) > 1
    for row, text in enumerate(tiny.TEXTS):
        alone = subject.encode([text])
        n = alone.n_tokens
        torch.testing.assert_close(logits[row, -n:], subject.logits(alone, "base")[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(resid[row, -n:], capture(subject, alone, "base", 1)[0], atol=1e-4, rtol=1e-4)


def test_padding_does_not_move_learned_positions(tmp_path):
    config = GPT2Config(vocab_size=len(tiny.tokenizer()), n_embd=16, n_layer=3, n_head=2, n_positions=64)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    model.transformer.wpe.weight.data *= 20
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    subject = load_subject(str(tmp_path))
    batch = subject.encode(tiny.TEXTS)
    resid = capture(subject, batch, "base", 1)
    for row, text in enumerate(tiny.TEXTS):
        ids = torch.tensor([subject.tokenizer.encode(text, add_special_tokens=False)])
        with torch.no_grad():
            alone = model(input_ids=ids, output_hidden_states=True).hidden_states[2][0]
        torch.testing.assert_close(resid[row, -len(alone) :], alone, atol=1e-4, rtol=1e-4)
