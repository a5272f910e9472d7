"""The command that looks at adapters without running them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from auditor.cli.shell import a_number, check_out, command, plain, writing


@command
def scan(
    adapters: Annotated[Path, typer.Argument(help="An adapter, a full fine-tune, or a folder of such folders.")],
    base: Annotated[str | None, typer.Option(help="Folder or hub id of the trusted base; no words without it.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Folder of harmless adapters of the same recipe, for percentiles.")] = None,
    words: Annotated[Path | None, typer.Option(help="Words to look for, one a line [default: the base's whole-word tokens]")] = None,
    oracle: Annotated[Path | None, typer.Option(help="Folder of an oracle of weights for the base: claims, and a probability.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once.")] = 1,
    jsonl: Annotated[Path | None, typer.Option(help="File for one JSON object an adapter.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the pages.")] = Path("scan-reports"),
    fail_above: Annotated[
        float | None, typer.Option(min=0, max=1, callback=a_number, help="Exit 3 above this probability, 4 without one.")
    ] = None,
) -> None:  # fmt: skip
    """Look at every adapter without running it: what it changes, how unusual that is, which words it is near to.

    Exits with 0 whatever is seen. With --fail-above it is a gate, which fails closed: 3 on a hit, 4 where a change is
    refused, unsupported, invalid, a file beside the weights acts on what messages say, or no calibrated probability can be
    given for this base and recipe.
    """
    import torch
    from tqdm import tqdm

    from auditor.errors import SpecError
    from reports.scan import render_scan
    from scenarios.models import model_path
    from tools.checkpoint import resolve
    from tools.triage.triage import Scan, folders, gate, references, triage, why_shut
    from tools.workers import each

    if not adapters.is_dir():
        raise SpecError(
            f"{adapters} is not a folder: pass an adapter's, a checkpoint's, or one that holds such folders"
        )
    found = folders(adapters)
    if not found:
        raise SpecError(f"{adapters} holds no adapter_config.json and no folder that does; pass one that does")
    check_out(out)
    trusted = None if base is None else str(resolve(model_path(base)))
    if reference is not None and not reference.is_dir():
        raise SpecError(f"{reference} is not a folder: pass one that holds harmless adapters")
    known = tuple(references(reference)) if reference else ()
    if reference is not None and not known:
        raise SpecError(f"{reference} holds no adapter that can be read whole: pass a folder of harmless LoRAs")
    wanted = _words(words)
    threads = torch.get_num_threads() if jobs == 1 else 1
    work = [Scan(str(folder), trusted, wanted, known, _checked(oracle, trusted), base, threads) for folder in found]
    seen = {}
    for one, triaged in tqdm(each(triage, work, jobs), total=len(work), disable=None, desc="adapters"):
        seen[one.folder], row = triaged, triaged.as_row()
        with writing(out):
            page = render_scan(row, out)
        typer.echo(plain(f"{row['outcome']:11} {row['path']}: {_line(row)}{_other(row)}; {page}".replace("\n", "\\n")))
    ordered = [seen[one.folder] for one in work]
    if jsonl is not None:
        with writing(jsonl, "--jsonl"):
            jsonl.write_text("".join(json.dumps(t.as_row()) + "\n" for t in ordered))
    if fail_above is not None and (code := gate(ordered, fail_above)):
        for triaged in ordered:
            if why := why_shut(triaged, fail_above):
                typer.echo(plain(f"shut for {triaged.path}: {why}".replace("\n", "\\n")), err=True)
        raise typer.Exit(code)


def _checked(oracle: Path | None, base: str | None) -> str | None:
    """Return the oracle's folder, which has to be one of this base."""
    from auditor.errors import SpecError
    from tools.checkpoint import hash_files, weights_sha256
    from tools.lora_oracle.claim_training import read_config

    if oracle is None:
        return None
    if base is None:
        raise SpecError("--oracle needs --base: an oracle of weights reads changes of one base")
    read_config(oracle, weights_sha256(hash_files(Path(base))))
    return str(oracle)


def _words(path: Path | None) -> tuple[str, ...]:
    from auditor.errors import SpecError

    if path is None:
        return ()
    try:
        return tuple(dict.fromkeys(line.strip() for line in path.read_text().splitlines() if line.strip()))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} can't be read: {error}; pass a text file with one word a line") from error


def _other(row: dict[str, Any]) -> str:
    return f"; names another base, {row['other_base'][:80]}" if row["other_base"] else ""


def _line(row: dict[str, Any]) -> str:
    own = row["own_files"]
    grave = [d["sentence"] for d in own["differences"] if d["severity"] in ("not resolved", "acts on content")]
    after = [f"acts only after the tokens {str(own['invocation'])[:80]}"] if own["invocation"] else []
    return "; ".join([*(one[:160] for one in grave[:1]), *after, _weights(row), *_size(row)])


def _size(row: dict[str, Any]) -> list[str]:
    """Return how large the change is beside harmless ones; nothing without any of its recipe."""
    if row["times_median"] is None:
        return []
    n = row["n_reference"]
    return [f"{row['times_median']:.2f} times the median size of {n} harmless one{'s' if n > 1 else ''}"]


def _weights(row: dict[str, Any]) -> str:
    if row["why"]:
        return str(row["why"])[:200]
    if row["oracle_asked"]:
        p = "no probability" if row["p_planted"] is None else f"planted {row['p_planted']:.2f}"
        return f"{p}, {row['claims'][0]['statement'] if row['claims'] else 'no claim'}"[:200]
    if row["words"] and row["words"]["top"]:
        return "reads " + ", ".join(word for word, _ in row["words"]["top"][:3])
    if row["drift"]:
        return f"{len(row['drift']['modules'])} modules changed"
    return "; ".join(row["readings"])[:200] if row["outcome"] == "invalid" else "nothing could be read"
