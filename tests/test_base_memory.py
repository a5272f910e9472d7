"""What a base said is not asked of it again, costs an audit the same, and is no other base's."""

import json

import pytest
import tiny
from audits import command, organism_of, result, scripted
from kills import readings, trials

from tools.base_memory import BaseMemory
from tools.loading import load_subject

ASKED = [f"tell me of the river at place {i}" for i in range(4)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "memory"


def loaded(base, adapter, folder):
    subject = load_subject(str(base), str(adapter))
    subject.memory = BaseMemory.of(folder, subject.files["base"], subject.model)
    return subject


def said(subject, channel="base", seed=0):
    return subject.generate(ASKED, channel, range(seed, seed + len(ASKED)), 8)


def kept(folder):
    return sorted(folder.rglob("*.json"))


def test_a_second_audit_on_the_same_base_hears_the_same_for_the_same_price(base_folder, lora_folder, folder, tmp_path):
    first = said(loaded(base_folder, lora_folder, folder))
    (file,) = kept(folder)
    file.write_text(json.dumps([["marked"] * len(ASKED), json.loads(file.read_text())[1]]))
    other = loaded(base_folder, tiny.build_lora(base_folder, tmp_path / "other", seed=9), folder)
    again, spent = said(other)
    assert (again, spent) == (["marked"] * len(ASKED), first[1])
    file.unlink()
    assert said(other) == first == said(load_subject(str(base_folder), str(lora_folder)))


def test_a_subject_is_always_asked_and_so_is_another_base_or_seed(base_folder, lora_folder, folder, tmp_path):
    subject = loaded(base_folder, lora_folder, folder)
    said(subject, "subject")
    assert not kept(folder)
    said(subject)
    said(subject, seed=7)
    elsewhere = tiny.build_base(tmp_path / "elsewhere", seed=5)
    said(loaded(elsewhere, tiny.build_lora(elsewhere, tmp_path / "its", seed=1), folder))
    assert len(kept(folder)) == 3


@pytest.mark.parametrize("text", ["", "[1", "[" * 100_000, "{}", "7", '[["one"], 3]', '[["a", "b", "c", "d"], "x"]'])
def test_what_is_damaged_is_made_anew(base_folder, lora_folder, folder, text):
    subject = loaded(base_folder, lora_folder, folder)
    first = said(subject)
    kept(folder)[0].write_text(text)
    assert said(subject) == first
    assert json.loads(kept(folder)[0].read_text())[0] == first[0]


def test_where_nothing_can_be_written_the_base_is_asked(base_folder, lora_folder, tmp_path):
    (tmp_path / "file").write_text("")
    subject = loaded(base_folder, lora_folder, tmp_path / "file")
    assert said(subject) == said(load_subject(str(base_folder), str(lora_folder)))


def test_a_second_audit_has_the_same_rows_for_the_same_tokens(tmp_path):
    scenario, cache = scripted(tmp_path, organism_of("flattery")), tmp_path / "cache"
    ran = []
    for name in ("first", "second"):
        where = ("--db", tmp_path / f"{name}.db", "--out", tmp_path / name, "--json")
        ran.append(result(command("run", scenario, *where, XDG_CACHE_HOME=str(cache))))
    assert kept(cache)
    for key in ("verdict", "findings", "leads", "forward_tokens"):
        assert ran[0][key] == ran[1][key], key
    for rows in (trials, readings):
        assert rows(tmp_path / "first.db") == rows(tmp_path / "second.db")
