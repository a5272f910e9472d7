"""Put an oracle on a subject's base, checked: its contract, its base, that it has weights and that they arrived."""

from __future__ import annotations

from pathlib import Path

from tools import checkpoint
from tools.activation_oracle.contract import OracleContract, hub_id, read_contract
from tools.activation_oracle.reader import ORACLE, OracleReader
from tools.errors import AdapterError
from tools.loading import load_whole
from tools.subject import Subject


def load_oracle(subject: Subject, folder: Path) -> OracleReader:
    """Return the oracle in `folder`, loaded as the channel `oracle` of this subject.

    An adapter goes on the subject's own base, a verbaliser (a whole checkpoint) beside it.

    Raises:
        AdapterError: no contract can be read, it is for another base, a factor is zero throughout,
            or a tensor was not taken up.
    """
    contract = read_contract(folder, subject.n_layers)
    _check_base(subject, contract, folder)
    if (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        subject.whole[ORACLE] = load_whole(subject, folder)
        subject.files[ORACLE] = checkpoint.hash_files(folder)
        subject._channels.add(ORACLE)
    else:
        check_factors(folder)
        subject.add_adapter(ORACLE, folder)
    return OracleReader(subject, contract)


def _check_base(subject: Subject, contract: OracleContract, folder: Path) -> None:
    """Refuse an oracle that names another base, by hash where it knows one, by hub name where both are known; else note it.

    Raises:
        AdapterError: it was trained on another one.
    """
    if contract.base_sha256 is not None:
        if contract.base_sha256 != subject.base_sha256:
            raise AdapterError(
                f"{folder} was trained on {contract.base!r} with weights {contract.base_sha256[:12]}, this base's are "
                f"{subject.base_sha256[:12]}: train an oracle on this base, or pass the base it names"
            )
        return
    here = hub_id(Path(str(getattr(subject.model.config, "_name_or_path", ""))))
    if here is not None and "/" in contract.base and here.casefold() != contract.base.casefold():
        raise AdapterError(f"{folder} was trained on {contract.base}, and this base is {here}: pass the base it names")
    if here is None or "/" not in contract.base:
        subject.notes.append(f"the activation oracle names its base as {contract.base!r}, which could not be checked")


def check_factors(folder: Path) -> None:
    """Refuse an adapter with a factor of zeros: it was saved before training, or its training never reached it.

    Raises:
        AdapterError: it has one.
    """
    path = folder / checkpoint.ADAPTER_WEIGHTS
    if not path.exists():
        return  # what is there instead is said where the adapter is loaded
    empty = [name for name, tensor in checkpoint.read_tensors(path, AdapterError).items() if not tensor.any()]
    if empty:
        raise AdapterError(
            f"{folder}: {len(empty)} tensors are zero throughout, first {empty[0]}: an oracle that was not trained says "
            "what the base says; get the file again, or train it"
        )
