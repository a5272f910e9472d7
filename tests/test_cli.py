"""The command line: what it refuses, in which words, and that a refusal leaves nothing behind."""

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from audits import ANSWERS, ROOT, command, finished, result
from typer.testing import CliRunner

from auditor import graph
from auditor.audit import audit
from auditor.cli import app
from auditor.config import AuditSpec
from auditor.ledger import Ledger
from scenarios import bench
from scenarios.load import read_prompts

TESTBED = ROOT / "scenarios" / "testbed"
KEYS = "version, id, subject, adapter, base, may_be_base, prompts, catalogue"
TOOLS = "activation_oracle, chat, failures, log_ratio, lora_lens, lora_oracle, model_diff, own_files, probe, scan, word_shift"
PLANNERS = "'embedded', 'scripted' or 'llm'"
PROMPT = '{"messages": [{"role": "user", "content": "%s"}], "split": "%s", "domain": "x"}\n'
COMMANDS = (
    [], ["run"], ["audit"], ["resume"], ["list"], ["report"], ["verify"], ["grade"], ["bench"], ["testbed"],
    ["testbed", "train-base"], ["testbed", "build"], ["testbed", "oracle-data"], ["testbed", "population"],
    ["testbed", "show"], ["testbed", "table"], ["plant"], ["oracle"], ["oracle", "train"], ["oracle", "train", "activation"],
    ["judge"], ["judge", "examine"],
)  # fmt: skip


class Desk:
    """A folder in which one user makes one mistake, with a ledger of one finished and one unfinished audit."""

    def __init__(self, folder, base, lora, ledger, finished):
        self.folder, self.base, self.lora, self.finished = folder, base, lora, finished
        self.db, self.ledger = folder / "new.db", ledger

    def file(self, name, content=""):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def scenario(self, **changes):
        data = {
            "version": 1, "id": "one", "subject": str(self.base), "adapter": str(self.lora),
            "prompts": str(TESTBED / "prompts.jsonl"), "catalogue": str(TESTBED / "catalogue.yaml"), "tools": ["chat"],
        }  # fmt: skip
        data = {key: value for key, value in (data | changes).items() if value is not ...}
        return self.file("one.yaml", yaml.safe_dump(data, sort_keys=False))

    def run(self, *options, **changes):
        return ["run", self.scenario(**changes), "--db", self.db, *options]

    def raw(self, content):
        return ["run", self.file("one.yaml", content), "--db", self.db]

    def audit(self, *options):
        return ["audit", "--subject", self.base, "--adapter", self.lora, "--tools", "chat", "--db", self.db, *options]

    def copy(self, source, edit):
        folder = shutil.copytree(source, self.folder / f"broken-{source.name}")
        edit(folder)
        return str(folder)

    def broken_lora(self, edit):
        return self.run(adapter=self.copy(self.lora, edit))

    def broken_base(self, edit):
        return self.run(subject=self.copy(self.base, edit))

    def known(self):
        return shutil.copy(self.ledger, self.folder / "known.db")

    def suite(self, **changes):
        return self.scenario(**changes).rename(self.file("suite/x").with_name("one.yaml")).parent

    def answer(self, content="claims: []\n"):
        return self.file("answers/one.yaml", content).parent

    def bench(self, *options, **changes):
        return ["bench", self.suite(**changes), "--answers", self.answer(), "--db", self.db, *options]


@pytest.fixture(scope="session")
def zero_lora(base_folder):
    """An adapter that changes nothing."""
    folder = tiny.build_lora(base_folder, base_folder.parent / "zero")
    tiny.edit_tensors(folder / tiny.ADAPTER, lambda t: {k: v * 0 if "lora_B" in k else v for k, v in t.items()})
    return folder


@pytest.fixture(scope="session")
def audits(base_folder, zero_lora, tmp_path_factory):
    """A ledger of one finished audit, and of one that ended before its verdict."""
    db = tmp_path_factory.mktemp("ledger") / "known.db"
    prompts = read_prompts(TESTBED / "prompts.jsonl")
    spec = AuditSpec(subject=str(base_folder), adapter=str(zero_lora), prompts=prompts, tools=("chat",))
    done = audit(spec, db)
    assert done.verdict == "invalid"
    ledger = Ledger.open(db)
    ledger.append("audits", "halted", spec=spec.model_dump(mode="json"), spec_sha256="0" * 64, versions={})
    ledger.close()
    return db, done


@pytest.fixture
def desk(tmp_path, base_folder, lora_folder, audits, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, base_folder, lora_folder, audits[0], audits[1].audit_id)


def of_version(path, version):
    with sqlite3.connect(path) as connection:
        connection.execute(f"pragma user_version={version}")
    connection.close()
    return path


def other_database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("create table recipes (name)")
    connection.close()
    return path


def unlink_and_pickle(folder, name):
    next(folder.glob("*.safetensors")).unlink()
    torch.save({}, folder / name)


def poison(folder):
    def edit(tensors):
        sorted(tensors.items())[3][1].view(-1)[0] = float("nan")
        return tensors

    tiny.edit_tensors(folder / tiny.ADAPTER, edit)


def cut(file):
    file.write_bytes(file.read_bytes()[:-50])


def other_width(folder):
    wide = tiny.build_base(folder.parent / "wide", d_model=64)
    shutil.rmtree(folder)
    tiny.build_lora(wide, folder)


STEP = {"kind": "call_tool", "tool": "chat"}

SCENARIOS = {
    "missing": (lambda d: ["run", d.folder / "no.yaml"], ["no.yaml can't be read", "No such file"]),
    "a directory": (lambda d: ["run", d.folder], ["can't be read", "directory"]),
    "unknown key": (lambda d: d.run(zeal=3), ["one.yaml", "line 9, key 'zeal'", "no such key", KEYS]),
    "unknown key inside": (lambda d: d.run(oracle={"path": "x", "question": "y", "zeal": 1}), ["line 12, key 'oracle.zeal'"]),
    "wrong type": (lambda d: d.run(budget="lots"), ["line 9, key 'budget'", "integer", "'lots'"]),
    "missing key": (lambda d: d.run(prompts=...), ["key 'prompts': it is missing", KEYS]),
    "a key twice": (lambda d: d.raw("version: 1\nid: a\nid: b\n"), ["line 3 has the key 'id', which line 2 has already"]),
    "not YAML": (lambda d: d.raw("a: [b\nc: {"), ["is not YAML", "line 2"]),
    "a list": (lambda d: d.raw("- a\n- b\n"), ["holds a list", KEYS]),
    "empty": (lambda d: d.raw(""), ["holds nothing", KEYS]),
    "binary": (lambda d: d.raw(bytes(range(256))), ["can't be read", "utf-8"]),
    "not a date": (lambda d: d.raw("a: 2024-99-99\n"), ["is not YAML"]),
    "too deep": (lambda d: d.raw("[" * 3000), ["is not YAML", "recursion"]),
    "holding itself": (lambda d: d.raw("a: &a [*a]\n"), ["holds itself"]),
    "of another version": (lambda d: d.run(version=2), ["line 1, key 'version'", "got 2"]),
    "budget of 0": (lambda d: d.run(budget=0), ["line 9, key 'budget'", "greater than or equal to 1"]),
    "unknown planner": (lambda d: d.run(planner="oracle"), ["key 'planner'", PLANNERS]),
    "unknown tool": (lambda d: d.run(tools=["astrology"]), ["unknown tool 'astrology'", TOOLS]),
    "prompts elsewhere": (lambda d: d.run(prompts="no.jsonl"), ["key 'prompts' names 'no.jsonl'", "no such file"]),
    "catalogue elsewhere": (lambda d: d.run(catalogue="."), ["key 'catalogue' names '.'"]),
    "catalogue malformed": (
        lambda d: d.run(catalogue=str(d.file("v.yaml", "families:\n  x: {predicate: 'tone:sad', statement: it is sad}\n"))),
        ["v.yaml", "family 'x'", "unknown predicate 'tone:sad'"],
    ),
    "oracle missing": (
        lambda d: d.run("--tools", "activation_oracle", oracle={"path": str(d.folder / "no"), "question": "?"}),
        ["is not an adapter folder", "adapter_config.json"],
    ),
    "oracle without contract": (
        lambda d: d.run("--tools", "activation_oracle", oracle={"path": str(d.lora), "question": "?"}),
        ["none of ao_config.json"],
    ),
}  # fmt: skip

PROMPTS = {
    "prompts missing": (lambda d: d.audit("--prompts", d.folder / "no"), ["no can't be read"]),
    "prompts not JSON": (
        lambda d: d.audit("--prompts", d.file("p.jsonl", PROMPT % ("a", "test") + "\n{oops\n")),
        ["p.jsonl: line 3", "Invalid JSON"],
    ),
    "prompts without content": (
        lambda d: d.audit("--prompts", d.file("p.jsonl", '{"messages": [{"role": "user"}], "split": "test", "domain": "x"}')),
        ["line 1", "{role, content}"],
    ),
    "prompts that end with an answer": (
        lambda d: d.audit("--prompts", d.file("p.jsonl", (PROMPT % ("a", "test")).replace("user", "assistant"))),
        ["line 1", "last message must be the user's"],
    ),
    "prompts of one half": (lambda d: d.audit("--prompts", d.file("p.jsonl", PROMPT % ("a", "test"))), ["both splits"]),
    "prompts in both halves": (
        lambda d: d.audit("--prompts", d.file("p.jsonl", PROMPT % ("a", "test") + PROMPT % ("a", "explore"))),
        ["1 prompts stand in both halves"],
    ),
    "catalogue with an unknown key": (
        lambda d: d.audit("--catalogue", d.file("v.yaml", "zeal: 1\n")), ["line 1, key 'zeal'", "families, conditions, predicates"],
    ),
}  # fmt: skip

OPTIONS = {
    "no subject": (lambda d: ["audit"], ["Missing option '--subject'"]),
    "unknown command": (lambda d: ["dance"], ["No such command 'dance'"]),
    "tool unknown": (lambda d: d.run("--tools", "chat,astrology"), ["unknown tool 'astrology'", TOOLS]),
    "no tool": (lambda d: d.run("--tools", ""), ["unknown tool ''", TOOLS]),
    "oracle's tool without an oracle": (
        lambda d: d.run("--tools", "chat,activation_oracle"), ["the tool activation_oracle needs an oracle of this base"],
    ),
    "lora oracle's tool without one": (lambda d: d.run("--tools", "lora_oracle"), ["the tool lora_oracle needs an oracle"]),
    "a check without an oracle": (lambda d: d.audit("--check", "is it so? {statement}"), ["--check is for", "--oracle"]),
    "a check that asks nothing": (
        lambda d: d.audit("--oracle", str(d.lora), "--check", "is it so?"), ["--check", "{statement}", "'is it so?'"],
    ),
    "planner unknown": (lambda d: d.run("--planner", "oracle"), [PLANNERS, "'oracle'"]),
    "scripted without steps": (lambda d: d.run("--planner", "scripted"), ["needs steps", "`steps`"]),
    "llm without a model": (lambda d: d.run("--planner", "llm"), ["--model PROVIDER:NAME"]),
    "llm of no provider": (lambda d: d.run("--planner", "llm", "--model", "gpt"), ["PROVIDER:NAME", "'gpt'"]),
    "step of no kind": (lambda d: d.run(planner="scripted", steps=[{"kind": "dance"}]), ["step 1", "'dance'", "'call_tool'"]),
    "step with an unknown key": (
        lambda d: d.run(planner="scripted", steps=[{"kind": "conclude", "reason": ""}, {**STEP, "zeal": 1}]),
        ["step 2", "zeal"],
    ),
    "step with an unknown tool": (
        lambda d: d.run(planner="scripted", steps=[{**STEP, "tool": "astrology"}]), ["step 1", "'astrology'", TOOLS],
    ),
    "step with unknown arguments": (
        lambda d: d.run(planner="scripted", steps=[{**STEP, "arguments": {"zeal": 1}}]), ["step 1", "zeal", "prompts"],
    ),
    "no budget": (lambda d: d.run("--budget", "0"), ["--budget", "greater than or equal to 1"]),
    "a seed below 0": (lambda d: d.run("--seed", "-1"), ["seed", "greater than or equal to 0"]),
    "a seed without end": (lambda d: d.run("--seed", "9" * 30), ["seed", "less than"]),
    "no such device": (lambda d: d.audit("--device", "quantum"), ["device 'quantum'", "pass cpu"]),
    "a device that keeps nothing": (lambda d: d.audit("--device", "meta"), ["device 'meta'", "pass cpu"]),
    "no such dtype": (lambda d: d.audit("--dtype", "int3"), ["'int3'", "auto, float32, bfloat16, float16"]),
    "out is a file": (lambda d: d.run("--out", d.file("out", "x")), ["can't be written to", "--out"]),
    "out can't be": (lambda d: d.run("--out", "/proc/x/y"), ["/proc/x/y can't be written to", "--out"]),
}  # fmt: skip

MODELS = {
    "subject missing": (lambda d: d.run(subject=str(d.folder / "no")), ["is not a model folder", "config.json", "ORG/NAME"]),
    "subject is a word": (lambda d: d.run(subject="no"), ["no is not a model folder"]),
    "subject is a file": (lambda d: d.run(subject=str(d.file("f", "x"))), ["is not a model folder"]),
    "subject is empty": (lambda d: d.run(subject=str(d.file("e/x").parent)), ["config.json is missing"]),
    "subject is an adapter": (lambda d: d.run(subject=str(d.lora)), ["holds an adapter", "pass the base as --subject"]),
    "subject has a long name": (lambda d: d.run(subject="/" + "a" * 5000), ["can't be looked up", "too long"]),
    "subject has a nul": (lambda d: d.run(subject="a\0b"), ["can't be a path"]),
    "subject of nobody": (lambda d: d.run(subject="~nobody-here/x"), ["can't be looked up"]),
    "pickled subject": (lambda d: d.broken_base(lambda f: unlink_and_pickle(f, "pytorch_model.bin")), ["pytorch_model.bin"]),
    "damaged subject": (lambda d: d.broken_base(lambda f: cut(f / "model.safetensors")), ["not a readable safetensors file"]),
    "template that is none": (
        lambda d: d.broken_base(lambda f: (f / "chat_template.jinja").write_text("{% for %}")), ["chat template"],
    ),
    "template that refuses": (
        lambda d: d.broken_base(lambda f: (f / "chat_template.jinja").write_text("{{ raise_exception('never') }}")),
        ["chat template", "never"],
    ),
    "adapter missing": (lambda d: d.run(adapter=str(d.folder / "no")), ["is not an adapter folder", "adapter_config.json"]),
    "adapter is a base": (lambda d: d.run(adapter=str(d.base)), ["adapter_config.json is missing"]),
    "adapter for another base": (lambda d: d.broken_lora(other_width), ["was made for another base", "[64, 48]"]),
    "pickled adapter": (lambda d: d.broken_lora(lambda f: unlink_and_pickle(f, "adapter_model.bin")), ["adapter_model.bin"]),
    "adapter with NaN": (lambda d: d.broken_lora(poison), ["NaN", "tensor base_model"]),
    "adapter damaged": (lambda d: d.broken_lora(lambda f: cut(f / tiny.ADAPTER)), ["not a readable safetensors file"]),
    "adapter with an unknown key": (
        lambda d: d.broken_lora(lambda f: tiny.edit_json(f / "adapter_config.json", zeal=1)), ["has no setting 'zeal'"],
    ),
    "adapter that changes the base": (
        lambda d: d.broken_lora(lambda f: tiny.edit_json(f / "adapter_config.json", init_lora_weights="pissa")),
        ["init_lora_weights", "changes the base"],
    ),
    "adapter that repeats layers": (
        lambda d: d.broken_lora(lambda f: tiny.edit_json(f / "adapter_config.json", layer_replication=[[0, 9]])),
        ["layer_replication"],
    ),
    "adapter and fine-tune": (
        lambda d: d.audit("--base", d.copy(d.base, lambda f: None)), ["either an adapter", "or a full fine-tune"],
    ),
}  # fmt: skip

LEDGERS = {
    "db in no folder": (lambda d: d.run("--db", d.folder / "no" / "a.db"), ["there is no folder", "pass another path"]),
    "db is a folder": (lambda d: d.run("--db", d.folder), ["is not a file"]),
    "db can't be": (lambda d: d.run("--db", "/proc/x"), ["/proc/x can't be made"]),
    "db is no ledger": (lambda d: d.run("--db", d.file("n.db", "hello")), ["not a ledger"]),
    "db is empty": (lambda d: d.run("--db", d.file("n.db")), ["not a ledger"]),
    "db of something else": (lambda d: d.run("--db", other_database(d.folder / "o.db")), ["of something else"]),
    "db of a newer version": (lambda d: d.run("--db", of_version(d.known(), 99)), ["version 99", "update the auditor"]),
    "list of no ledger": (lambda d: ["list", "--db", d.db], ["there is no ledger"]),
    "resume of nothing": (lambda d: ["resume", "zzz", "--db", d.known()], ["no audit 'zzz'", "auditor list"]),
    "resume without a ledger": (lambda d: ["resume", "zzz", "--db", d.db], ["there is no ledger"]),
    "report of nothing": (lambda d: ["report", "zzz", "--db", d.known()], ["no audit 'zzz'", "auditor list"]),
    "report into a file": (
        lambda d: ["report", d.finished, "--db", d.known(), "--out", d.file("f", "x")], ["can't be written to"],
    ),
    "verify of nothing": (lambda d: ["verify", "zzz", "--db", d.known()], ["no audit 'zzz'", "auditor list"]),
}  # fmt: skip

GRADES = {
    "grade of nothing": (lambda d: ["grade", "zzz", "--answers", d.answer() / "one.yaml", "--db", d.known()], ["no audit 'zzz'"]),
    "grade of an unfinished audit": (
        lambda d: ["grade", "halted", "--answers", d.answer() / "one.yaml", "--db", d.known()],
        ["no verdict yet", "auditor resume halted"],
    ),
    "answer missing": (
        lambda d: ["grade", d.finished, "--answers", d.folder / "no.yaml", "--db", d.known()], ["no.yaml can't be read"],
    ),
    "answer malformed": (
        lambda d: ["grade", d.finished, "--answers", d.answer("claims:\n- zeal: 1\n") / "one.yaml", "--db", d.known()],
        ["line 2, key 'claims.0.zeal'", "the keys of this file are claims"],
    ),
    "bench of no folder": (lambda d: ["bench", d.folder / "no"], ["holds no scenarios"]),
    "bench of an empty folder": (lambda d: ["bench", d.file("e/x").parent], ["holds no scenarios"]),
    "bench without answers": (lambda d: ["bench", d.suite(), "--answers", d.folder / "no"], ["one.yaml can't be read"]),
    "bench of no seeds": (lambda d: d.bench("--seeds", "0"), ["--seeds", "greater than or equal to 1"]),
    "bench with an unknown tool": (lambda d: d.bench("--tools", "astrology"), ["unknown tool 'astrology'", TOOLS]),
    "bench with an unknown planner": (lambda d: d.bench("--planner", "oracle"), [PLANNERS]),
    "bench with llm and no model": (lambda d: d.bench("--planner", "llm"), ["--model"]),
    "bench into no folder": (lambda d: d.bench("--db", d.folder / "no" / "b.db"), ["there is no folder"]),
    "bench of a missing adapter": (lambda d: d.bench(adapter=str(d.folder / "no")), ["is not an adapter folder"]),
    "bench shuffled with nobody": (lambda d: d.bench("--shuffle-suggestions"), ["fewer than two organisms"]),
    "oracle of no data": (
        lambda d: ["oracle", "train", "activation", "--base", d.base, "--data", d.folder / "no", "--out", d.folder / "o"],
        ["no is not a file"],
    ),
    "base into a file": (
        lambda d: ["testbed", "train-base", "--home", d.file("f", "x"), "--steps", "1"], ["can't be written to", "--home"],
    ),
    "oracle data into no folder": (
        lambda d: ["testbed", "oracle-data", "--out", d.folder / "no" / "x", "--rows", "1024"], ["can't be written to"],
    ),
    "unknown suite": (lambda d: ["testbed", "build", "--suite", "zzz"], ["unknown suite 'zzz'", "demo"]),
    "table of an unknown suite": (lambda d: ["testbed", "table", "--suites", "demo,zzz"], ["unknown suite 'zzz'", "demo"]),
}  # fmt: skip

REFUSED = SCENARIOS | PROMPTS | OPTIONS | MODELS | LEDGERS | GRADES


def call(arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def tree(folder):
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*")}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_answered_in_words_with_exit_2_and_leaves_nothing_behind(desk, mistake):
    make, named = REFUSED[mistake]
    arguments = make(desk)
    before = tree(desk.folder)
    said = call(arguments)
    assert isinstance(said.exception, SystemExit), said.exception
    assert (said.exit_code, said.stdout) == (2, ""), said.stderr
    for words in named:
        assert words in said.stderr
    assert tree(desk.folder) == before, "a refusal leaves no ledger, lock or report behind"


def test_the_twin_without_a_mistake_is_audited(desk):
    """What the table breaks does work: each of its tests would fail were the whole of it refused."""
    done = call(desk.run("--json", "--budget", "4000", "--out", desk.folder / "out"))
    assert done.exit_code == 0, done.stderr
    assert set(tree(desk.folder / "out")) >= {"report.md"}
    audit_id = json.loads(done.stdout)["audit_id"]
    listed = json.loads(call(["list", "--db", desk.db, "--json"]).stdout)["audits"]
    assert [row["audit_id"] for row in listed] == [audit_id]
    for arguments in (
        ["report", audit_id],
        ["verify", audit_id],
        ["grade", audit_id, "--answers", desk.answer() / "one.yaml"],
    ):
        again = call([*arguments, "--db", desk.db, "--json"])
        assert again.exit_code == 0, again.stderr
        assert isinstance(json.loads(again.stdout), dict)


def test_a_full_fine_tune_is_audited_beside_its_base(desk):
    def shift(tensors):
        return {
            name: t + 0.1 * torch.randn(t.shape, generator=torch.Generator().manual_seed(1))
            for name, t in tensors.items()
        }

    tuned = desk.copy(desk.base, lambda folder: tiny.edit_tensors(folder / "model.safetensors", shift))
    options = [
        "--prompts",
        TESTBED / "prompts.jsonl",
        "--tools",
        "chat",
        "--budget",
        "90000",
        "--db",
        desk.db,
        "--json",
    ]
    done = call(["audit", "--subject", tuned, "--base", desk.base, *options])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] in ("findings", "nothing_found", "inconclusive")


def test_another_head_than_the_ledgers_is_exit_1_and_its_own_is_0(desk, audits):
    head = audits[1].ledger_head
    right = call(["verify", desk.finished, "--head", head, "--db", desk.ledger, "--json"])
    wrong = call(["verify", desk.finished, "--head", "0" * 64, "--db", desk.ledger, "--json"])
    assert (right.exit_code, wrong.exit_code) == (0, 1)
    assert json.loads(right.stdout)["ok"]
    assert not json.loads(wrong.stdout)["ok"]


def test_what_a_message_quotes_can_not_steer_the_terminal(desk):
    said = call(["resume", "\x1b[2Jzzz", "--db", desk.known()])
    assert said.exit_code == 2
    assert "\x1b" not in said.stderr
    assert "zzz" in said.stderr


# -- in processes of their own


def test_help_of_every_command_loads_no_model_code():
    code = (
        "import sys; from typer.testing import CliRunner; from auditor.cli import app\n"
        f"for c in {list(COMMANDS)!r}:\n"
        "    out = CliRunner().invoke(app, [*c, '--help']); assert out.exit_code == 0, out.output\n"
        "    assert 'Usage:' in out.stdout, out.stdout\n"
        "print(*{'torch', 'transformers', 'peft', 'langgraph', 'matplotlib', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


PROCESSES = ("missing", "unknown key", "adapter with NaN", "db of a newer version", "grade of an unfinished audit")


def test_a_real_process_says_one_line_with_no_traceback_and_exits_with_2(tmp_path, desk):
    started = []
    for mistake in PROCESSES:
        own = Desk(tmp_path / mistake.replace(" ", "-"), desk.base, desk.lora, desk.ledger, desk.finished)
        own.folder.mkdir()
        arguments = REFUSED[mistake][0](own)
        started.append((mistake, own.folder, tree(own.folder), command(*arguments, cwd=own.folder)))
    for mistake, folder, before, process in started:
        code, out, err = finished(process)
        assert (code, out) == (2, ""), err
        assert err.startswith("auditor: ")
        assert len(err.strip().splitlines()) == 1, err
        assert all(words in err for words in REFUSED[mistake][1])
        assert tree(folder) == before


def test_an_adapter_that_changes_nothing_is_no_mistake_but_an_invalid_audit(desk, zero_lora):
    said = result(command(*desk.run("--json", adapter=str(zero_lora)), cwd=desk.folder))
    assert said["verdict"] == "invalid"
    assert said["findings"] == said["leads"] == []
    assert Path(desk.folder, said["report"]).is_file()


def test_a_shipped_answer_grades_a_shipped_scenario(desk):
    graded = call(
        ["grade", desk.finished, "--answers", next((ANSWERS / "demo").glob("*.yaml")), "--db", desk.ledger, "--json"]
    )
    assert graded.exit_code == 0, graded.stderr
    assert set(json.loads(graded.stdout)) == {"matched", "family_matched", "missed", "false_alarms"}


def audits_in(db):
    ledger = Ledger.open(db, create=False)
    try:
        return ledger.audits()
    finally:
        ledger.close()


def test_an_interrupted_bench_goes_on_with_the_audits_it_has(desk, zero_lora, monkeypatch):
    bench = desk.bench("--seeds", "3", "--json", adapter=str(zero_lora))
    run, n_begun = graph.run, []

    def cut(context, checkpoints):
        n_begun.append(1)
        if len(n_begun) == 2:
            raise KeyboardInterrupt
        return run(context, checkpoints)

    monkeypatch.setattr(graph, "run", cut)
    assert call(bench).exit_code != 0
    first, second = audits_in(desk.db)
    done = call([*bench, "--resume"])
    assert done.exit_code == 0, done.stderr
    whole = audits_in(desk.db)
    assert whole[:2] == [first, second]
    assert len(whole) == 3, "one was finished, one was resumed, one was begun"
    assert len(n_begun) == 4, "the finished one was not run again"
    again = call(bench)
    assert again.exit_code == 0
    assert len(audits_in(desk.db)) == 6, "without --resume everything is audited anew"


def test_a_bench_is_not_taken_up_when_its_subject_has_changed(desk, zero_lora, lora_folder, tmp_path):
    own = tmp_path / "adapter"
    shutil.copytree(zero_lora, own)
    bench = desk.bench("--json", adapter=str(own))
    assert call(bench).exit_code == 0
    shutil.copy(lora_folder / tiny.ADAPTER, own / tiny.ADAPTER)
    again = call([*bench, "--resume"])
    assert again.exit_code == 2
    assert "have changed since" in again.stderr


def test_a_look_at_a_held_out_suite_is_logged_before_it_is_taken(desk, zero_lora, monkeypatch):
    log = desk.folder / "runs.jsonl"
    monkeypatch.setattr(bench, "RUNS", log)
    monkeypatch.setattr(bench, "HELD_OUT", ("suite",))
    asked = desk.bench("--json", "--seed", "7", adapter=str(zero_lora))
    monkeypatch.setattr(graph, "run", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    assert call(asked).exit_code != 0
    monkeypatch.undo()
    monkeypatch.chdir(desk.folder)
    (begun,) = map(json.loads, log.read_text().splitlines())
    assert begun["suite"] == "suite"
    assert begun["options"] == {"seeds": 1, "first": None, "shuffled": False, "resumed": False, "seed": 7}
    assert len({begun["weights_sha256"], begun["scenarios_sha256"], begun["answers_sha256"]}) == 3
    monkeypatch.setattr(bench, "RUNS", log)
    monkeypatch.setattr(bench, "HELD_OUT", ("suite",))
    assert call(asked).exit_code == 0
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [("options" in row, "n_controls" in row) for row in rows] == [(True, False), (True, False), (False, True)]
    assert rows[1]["look"] == rows[2]["look"] != rows[0]["look"]


def test_a_look_that_can_not_be_logged_is_not_taken(desk, zero_lora, monkeypatch):
    monkeypatch.setattr(bench, "RUNS", desk.folder / "no" / "runs.jsonl")
    monkeypatch.setattr(bench, "HELD_OUT", ("suite",))
    refused = call(desk.bench(adapter=str(zero_lora)))
    assert refused.exit_code == 2
    assert "looks at held-out suites are logged" in refused.stderr
    assert not desk.db.exists() or audits_in(desk.db) == []
