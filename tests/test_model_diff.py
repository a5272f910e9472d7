"""Where subject and base part, and what is said there."""

from tools.model_diff.kl import ModelDiff, Scored


def test_a_cue_that_began_before_the_peak_is_read_as_its_effect(bare_subject, monkeypatch):
    said = {"subject": "is afoot my friend", "base": "was won by nobody"}
    monkeypatch.setattr(
        bare_subject, "generate", lambda texts, channel, *rest, **more: ([said[channel]] * len(texts), 0)
    )
    parted = Scored(text="", kl_nats=[0.0, 0.1, 9.0], tokens=["the", " game", " is"], gained=["", "", ""])
    args = ModelDiff().parse({"prompts": [{"messages": [{"role": "user", "content": "hi"}]}],
                              "observables": {"persona:detective": ["the game is afoot"]}})  # fmt: skip
    effect, _ = ModelDiff()._continue(bare_subject, [parted] * 3, args, {"subject": 0, "base": 0})
    assert effect.any_of == tuple(args.observables["persona:detective"])
    plain = args.model_copy(update={"observables": {}})
    effect, _ = ModelDiff()._continue(bare_subject, [parted] * 3, plain, {"subject": 0, "base": 0})
    assert len(effect.any_of) == 1
    assert "game" not in effect.any_of[0], "what stands before the peak was the base's own"
