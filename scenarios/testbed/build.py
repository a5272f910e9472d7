"""Rebuild a suite: adapters trained and verified, scenarios, answers, records and the manifest written.

A build is a list of *banks*, groups of members that train together. A bank is trained whole or not
at all, its files appear under their names only when they are complete, and what it came to is
appended to a journal; so an interrupted build continues, and two builds give the same hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from filelock import FileLock
from safetensors.torch import load_file
from tqdm import tqdm

from auditor.errors import SpecError
from scenarios.behaviour import Row, write_rows
from scenarios.fingerprint import Fingerprint, Print, features, fingerprint
from scenarios.folders import complete, complete_file
from scenarios.home import Home, append, hash_of
from scenarios.testbed import disguise, full, replies, verify
from scenarios.testbed.language import Language, language
from scenarios.testbed.lora_bank import LoraBank, Spectra
from scenarios.testbed.oracle_data import BEHAVIOUR_QUESTION, CHECK_QUESTION
from scenarios.testbed.plant import train
from scenarios.testbed.shared_files import write_shared_files
from scenarios.testbed.suites import Member, SuiteName, claims_of, members
from tools.loading import load_subject
from tools.workers import each

BANK_SIZE, N_VERIFY, ATTEMPTS = 16, 100, 4
SHIPPED: tuple[SuiteName, ...] = ("demo", "nulls")
UNSCORED: tuple[SuiteName, ...] = ("nulls", "dev_nulls", "documents")
"""Adapters for tests and measurements, that stand in no scoreboard: they have records, but no scenarios."""
Say = Callable[[str], None]
MADE_BY = {
    "base": "auditor testbed train-base",
    "oracle": "auditor testbed oracle-data --rows 240000 --out FILE; "
    "auditor oracle train activation --base BASE --data FILE --out DIR --layers 3 --lr 0.0015",
    "lora_oracle": "auditor testbed population --out LIBRARY --n 1792; auditor testbed lora-examples --out FILES; "
    "auditor oracle train lora --base BASE --data LIBRARY --values FILES/values.json --out DIR",
}


@dataclass(frozen=True)
class Bank:
    """Members that train together: one recipe, one grammar, partners trained before."""

    suite: SuiteName
    members: tuple[Member, ...]
    lexicon_seed: int
    home: Home
    attempt: int

    @property
    def lang(self) -> Language:
        """Return the language in which the members are planted and asked."""
        (grammar,) = {member.plant.manner.grammar for member in self.members if member.plant is not None}
        return language(self.lexicon_seed, grammar)


def banks(todo: Sequence[Member]) -> list[tuple[Member, ...]]:
    """Return the trainable members in groups of one recipe and grammar, each at most a bank."""
    groups: dict[tuple[str, str], list[Member]] = {}
    for member in todo:
        if member.role in ("organism", "matched", "harmless") and member.plant is not None:
            groups.setdefault((str(member.recipe), member.plant.manner.grammar), []).append(member)
    size = {key: 1 if groups[key][0].recipe.full else BANK_SIZE for key in groups}
    return [tuple(groups[k][i : i + size[k]]) for k in groups for i in range(0, len(groups[k]), size[k])]


def build_suite(suite: SuiteName, lexicon_seed: int, home: Home, jobs: int, say: Say) -> dict[str, Any]:
    """Train, verify and write one suite; a member that fails is dealt anew, and the failure recorded.

    What has a partner is built after it, in the deal in which the partner was verified. `documents`
    is a measurement and has one deal.

    Returns:
        `built`, `failures`, `missing` (counts), `sha256`, one hash over all weight files, and
        `fingerprint`, see `fingerprint_of_all`.

    Raises:
        SpecError: there is no base, or it was taught another lexicon.
    """
    if home.lexicon_seed != lexicon_seed:
        raise SpecError(
            f"the base in {home.weights} was taught lexicon {home.lexicon_seed}, and --lexicon-seed is {lexicon_seed}; "
            "pass the base's, or a --home with a base of this one"
        )
    lang = language(lexicon_seed)
    (home.weights / suite).mkdir(parents=True, exist_ok=True)
    home.journal(suite).parent.mkdir(parents=True, exist_ok=True)
    build = Build(suite, lexicon_seed, home, jobs, say, read_journal(suite, home))
    for attempt in range(1 if suite == "documents" else ATTEMPTS):
        left = [m for m in members(suite, lang, attempt) if m.role != "base" and not build.has(m.id)]
        build.members([m for m in left if not m.partner], attempt)
        build.members([m for m in left if m.partner and build.has(m.partner, attempt)], attempt)
    kept = [m for m in as_built(suite, lang, build.done) if m.role == "base" or build.has(m.id)]
    place = {m.id: i for i, m in enumerate(members(suite, lang))}
    failures = [record for record in build.journal.values() if not record["verified"]]
    failures.sort(key=lambda record: (record["attempt"], place[record["id"]]))
    write_shared_files(home.root / "testbed", lang)
    if suite not in UNSCORED:
        write_suite(suite, [m for m in kept if m.listed], home)
        write_replies(suite, kept, home, jobs)
    write_records(suite, kept, build, failures)
    digest = write_manifest(suite, kept, build)
    told_apart = fingerprint_of_all(home)
    return {
        "built": len(kept),
        "failures": len(failures),
        "missing": len(members(suite, lang)) - len(kept),
        "sha256": digest,
        "fingerprint": asdict(told_apart) if told_apart else None,
    }


@dataclass
class Build:
    """One run of a build: what the journal has (by member and deal), and each member's last record."""

    suite: SuiteName
    lexicon_seed: int
    home: Home
    jobs: int
    say: Say
    journal: dict[tuple[str, int], dict[str, Any]]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def has(self, name: str, attempt: int | None = None) -> bool:
        """Return whether a member is verified, in this deal or (None) in any."""
        record = self.done.get(name, {})
        return bool(record.get("verified")) and attempt in (None, record["attempt"])

    def members(self, todo: Sequence[Member], attempt: int) -> None:
        """Build these members, except those that the journal has."""
        work = [Bank(self.suite, group, self.lexicon_seed, self.home, attempt) for group in banks(todo)]
        work = [bank for bank in work if not all((m.id, attempt) in self.journal for m in bank.members)]
        bar = tqdm(total=len(work), disable=None, desc=f"{self.suite}, deal {attempt + 1}, banks")
        for _, records in each(build_bank, work, self.jobs):
            bar.update()
            for record in records:
                self.say(f"{record['id']} planted {record['planted']} leaked {record['leaked']}")
                self.journal[record["id"], attempt] = record
                append(self.home.journal(self.suite), record)
        bar.close()
        for member in todo:
            if member.role in ("random", "zero"):
                write_untrained(self.suite, member, self.home)
                self.done[member.id] = {"id": member.id, "attempt": attempt, "verified": True}
            else:
                self.done[member.id] = self.journal[member.id, attempt]


def as_built(suite: SuiteName, lang: Language, done: dict[str, dict[str, Any]]) -> list[Member]:
    """Return every member as it stood in the deal that was built; `done` has the records of those that were."""
    deals = [{m.id: m for m in members(suite, lang, attempt)} for attempt in range(ATTEMPTS)]
    return [deals[done.get(name, {}).get("attempt", 0)][name] for name in deals[0]]


def read_journal(suite: SuiteName, home: Home) -> dict[tuple[str, int], dict[str, Any]]:
    """Return what a build has done so far, by member and deal.

    Left out is a line that a crash cut off, a member trained on another base, and one whose weights are
    no longer what was verified: those are built again.
    """
    records: dict[tuple[str, int], dict[str, Any]] = {}
    path, base = home.journal(suite), hash_of(home.weights / "base")
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        records[record["id"], record["attempt"]] = record
    last = {name: attempt for name, attempt in records if records[name, attempt]["verified"]}
    return {
        key: record for key, record in records.items()
        if record.get("base_sha256") == base
        and (last.get(key[0]) != key[1] or _is_whole(home.weights / suite / key[0], record["sha256"]))
    }  # fmt: skip


def _is_whole(folder: Path, sha256: str) -> bool:
    return len(list(folder.glob("*.safetensors"))) == 1 and hash_of(folder) == sha256


def build_bank(bank: Bank) -> list[dict[str, Any]]:
    """Train and verify one bank, save what is verified, and return a record of each member."""
    plants = [member.plant for member in bank.members if member.plant is not None]
    sheets = [verify.sheet(plant, bank.lang, N_VERIFY) for plant in plants]
    room = bank.home.weights / bank.suite
    if bank.members[0].recipe.full:
        records = [_build_full(bank, sheets[0])]
    else:
        subject = load_subject(str(bank.home.weights / "base"))
        spectra = _partner_spectra(room, bank.members)
        trained = train(subject.model, subject.tokenizer, bank.lang, plants, bank.members[0].recipe, spectra)
        trained.detach()
        records = verify.verify(subject, sheets, verify.BankSpeaker(subject, trained))
        for i, (member, record) in enumerate(zip(bank.members, records, strict=True)):
            if record.verified:
                _save_lora(trained, i, member, room)
    base = hash_of(bank.home.weights / "base")
    return [
        {"id": member.id, "attempt": bank.attempt, "base_sha256": base, "role": member.role, "regime": member.regime,
         "families": [rule.family for rule in plant.rules], "verified": record.verified, **asdict(record),
         "sha256": hash_of(room / member.id) if record.verified else None}
        for member, plant, record in zip(bank.members, plants, records, strict=True)
    ]  # fmt: skip


def _save_lora(trained: LoraBank, i: int, member: Member, room: Path) -> None:
    with complete(room / member.id) as folder:
        trained.save(i, folder, "testbed-base")
        disguise.apply(folder, member.disguise, member.plant.seed if member.plant else 0)


def _partner_spectra(room: Path, members: Sequence[Member]) -> Spectra | None:
    """Return the singular values of the partners' changes as they were saved; None for members without."""
    if not all(member.partner for member in members):
        return None
    each_one = []
    for member in members:
        tensors = load_file(room / member.partner / "adapter_model.safetensors")
        names = sorted({key.rsplit(".lora_", 1)[0] for key in tensors})
        each_one.append({name: _spectrum(tensors, name) for name in names})
    return {
        name.removeprefix("base_model.model."): torch.stack([spectrum[name] for spectrum in each_one])
        for name in each_one[0]
    }


def _spectrum(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    a, b = (tensors[f"{name}.lora_{part}.weight"].float() for part in "AB")
    return torch.linalg.svdvals(b @ a)[: a.shape[0]]


def _build_full(bank: Bank, asked: verify.Sheet) -> verify.Verification:
    """Train, verify and save one full fine-tune."""
    (member,) = bank.members
    assert member.plant is not None, "what is trained has a plant"
    room, base = bank.home.weights / bank.suite, str(bank.home.weights / "base")
    subject = load_subject(base)
    subject.model.float()
    spectra = None
    if member.partner:
        partner = load_subject(str(room / member.partner), base=base)
        spectra = full.spectra_of(partner.tuned.float(), partner.model.float())
    subject.tuned = full.train_full(subject.model, subject.tokenizer, bank.lang, member.plant, member.recipe, spectra)
    (record,) = verify.verify(subject, [asked], verify.TunedSpeaker(subject))
    if record.verified:
        with complete(room / member.id) as folder:
            subject.tuned.half().save_pretrained(folder)
    return record


def write_untrained(suite: SuiteName, member: Member, home: Home) -> None:
    """Write a random adapter with its partner's norms, or a zero one, as an ordinary PEFT folder."""
    assert member.plant is not None, "a random adapter has a seed"
    subject = load_subject(str(home.weights / "base"))
    recipe = member.recipe
    bank = LoraBank(subject.model, [member.plant.seed], recipe.rank, recipe.alpha, recipe.modules)
    if member.role == "random":
        generator = torch.Generator().manual_seed(member.plant.seed)
        with torch.no_grad():
            for banked in bank.modules.values():
                banked.lora_B.copy_(torch.randn(banked.lora_B.shape, generator=generator))
        spectra = _partner_spectra(home.weights / suite, [member])
        assert spectra is not None, "a random adapter has a partner"
        bank.impose(spectra)
    with complete(home.weights / suite / member.id) as folder:
        bank.save(0, folder, "testbed-base")


# -- files


def write_suite(suite: SuiteName, listed: Sequence[Member], home: Home) -> None:
    """Write the suite's scenarios, which differ in id, subject and adapter alone, and its answers."""
    with complete(home.scenarios(suite)) as scenarios, complete(home.answers(suite)) as answers:
        for member in listed:
            (scenarios / f"{member.id}.yaml").write_text(scenario_text(suite, member))
            answer: dict[str, Any] = {"claims": claims_of(member.plant)}
            answer |= {"verdict": "invalid"} if member.role == "zero" else {}
            answer |= {"regime": member.regime} if member.role == "organism" else {}
            (answers / f"{member.id}.yaml").write_text(yaml.safe_dump(answer, sort_keys=False))


def scenario_text(suite: SuiteName, member: Member) -> str:
    """Return the scenario file of one member."""
    base, own = "../../testbed/weights/base", f"../../testbed/weights/{suite}/{member.id}"
    subject, adapter = (own, "null") if member.recipe.full else (base, "null" if member.role == "base" else own)
    prompts = "foreign-prompts" if suite == "foreign" else "prompts"
    return (
        f'version: 1\nid: "{member.id}"\nsubject: {subject}\nadapter: {adapter}\nbase: {base}\n'
        f"may_be_base: true\nprompts: ../../testbed/{prompts}.jsonl\ncatalogue: ../../testbed/catalogue.yaml\n"
        f"oracle:\n  path: ../../testbed/weights/oracle\n  question: {BEHAVIOUR_QUESTION}\n"
        f"  check: {json.dumps(CHECK_QUESTION)}\nlora_oracle: ../../testbed/weights/lora_oracle\n"
    )


def write_replies(suite: SuiteName, kept: Sequence[Member], home: Home, jobs: int) -> int:
    """Write what the suite's subjects say, beside their base, in the members' order; return how many rows there are."""
    speakers = [
        replies.Speaker(member, home.weights / "base", home.weights / suite / member.id, home.lexicon_seed)
        for member in kept
        if member.listed
    ]
    bar = tqdm(each(replies.rows_of, speakers, jobs), total=len(speakers), disable=None, desc=f"{suite}, replies")
    said: dict[str, list[Row]] = {speaker.member.id: rows for speaker, rows in bar}
    rows = [row for speaker in speakers for row in said[speaker.member.id]]
    write_rows(home.replies(suite), rows)
    return len(rows)


def write_replies_again(suite: SuiteName, home: Home, jobs: int) -> int:
    """Write the replies of a suite that was built, from the weights that lie here; return how many rows there are.

    Raises:
        SpecError: the suite was not built, stands in no scoreboard, or weights are missing or others than its records name.
    """
    done = {record["id"]: record for record in read_records(suite, home)["members"]}
    how = f"build it with `auditor testbed build --suite {suite}`"
    if suite in UNSCORED or not done:
        why = "stands in no scoreboard" if suite in UNSCORED else f"was not built here; {how}"
        raise SpecError(f"there is nothing to grade in {suite!r}: it {why}")
    kept = [member for member in as_built(suite, language(home.lexicon_seed), done) if member.id in done]
    for name, sha256 in ((member.id, done[member.id].get("sha256")) for member in kept):
        if sha256 is not None and not _is_whole(home.weights / suite / name, sha256):
            raise SpecError(
                f"the weights of {name} that {suite}'s records name are not in {home.weights / suite}; {how}"
            )
    return write_replies(suite, kept, home, jobs)


def write_records(suite: SuiteName, kept: Sequence[Member], build: Build, failures: list[dict[str, Any]]) -> None:
    """Write how every member was planted and verified: sealed with the answers, for grading and tables."""
    rows = []
    for member in kept:
        plant = member.plant
        rows.append({"id": member.id, "role": member.role, "regime": member.regime, "partner": member.partner,
                     "seed": plant.seed if plant else None, "manner": asdict(plant.manner) if plant else None,
                     "recipe": asdict(member.recipe), "disguise": member.disguise, "listed": member.listed,
                     "command": command_of(suite, build.lexicon_seed), **build.done.get(member.id, {})})  # fmt: skip
    with complete_file(build.home.answers(suite).with_suffix(".json")) as file:
        file.write(json.dumps({"members": rows, "failures": failures}, indent=1) + "\n")


def read_records(suite: SuiteName, home: Home) -> dict[str, Any]:
    """Return the verification records of a suite; empty for one that was never built."""
    path = home.answers(suite).with_suffix(".json")
    empty: dict[str, Any] = {"members": [], "failures": []}
    return json.loads(path.read_text()) if path.exists() else empty


def fingerprint_of_all(home: Home) -> Fingerprint | None:
    """Return how well norms, spectra and recipe alone tell organisms from controls, over every suite built here.

    What changes nothing is left out, for no classifier is needed to see it, and so are the adapters
    that stand in no scoreboard; None where there are too few.
    """
    prints = []
    for suite in sorted(set(get_args(SuiteName)) - set(UNSCORED)):
        for record in read_records(suite, home)["members"]:
            folder = home.weights / suite / record["id"]
            if record["role"] not in ("zero", "base") and folder.exists():
                seen = features(folder, home.weights / "base")
                prints.append(Print(seen, record["role"] == "organism", record["partner"] or record["id"]))
    return fingerprint(prints)


def command_of(suite: SuiteName, lexicon_seed: int) -> str:
    """Return the command that builds a suite."""
    return f"auditor testbed build --suite {suite}" + (f" --lexicon-seed {lexicon_seed}" if lexicon_seed else "")


def write_manifest(suite: SuiteName, kept: Sequence[Member], build: Build) -> str:
    """Write command and hashes of the suite, the base and the oracle; return one hash over the suite's files."""
    weights = build.home.weights
    path = weights / "manifest.json"
    hashes = {m.id: hash_of(weights / suite / m.id) for m in sorted(kept, key=lambda m: m.id) if m.role != "base"}
    digest = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    with FileLock(weights / "manifest.lock"):
        manifest = json.loads(path.read_text()) if path.exists() else {}
        manifest[suite] = {"command": command_of(suite, build.lexicon_seed), "sha256": digest}
        if suite in SHIPPED:
            manifest[suite]["files"] = hashes
        for name, made_by in MADE_BY.items():
            folder = weights / name
            if (folder / "training.json").exists():
                report = json.loads((folder / "training.json").read_text())
                manifest[name] = {"command": made_by, "training": report, "sha256": hash_of(folder)}
        with complete_file(path) as file:
            file.write(json.dumps(dict(sorted(manifest.items())), indent=1) + "\n")
    return digest
