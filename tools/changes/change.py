"""What a folder changes of a base, whatever it holds: an adapter, a full fine-tune, or one that was turned."""

from __future__ import annotations

from pathlib import Path

from tools.changes.finetune import PLAUSIBLE_RATIO, read_finetune, turned_back
from tools.changes.parameters import Parameters
from tools.changes.reading import WeightDelta, read_adapter
from tools.errors import AuditorError
from tools.loading import load_subject


def read_change(folder: Path, base: Parameters | None) -> WeightDelta:
    """Return what the adapter or full fine-tune in a folder changes.

    Of a fine-tune whose change is too large to be one, the symmetries of its architecture are taken back
    first; where they explain nothing, that is a reading.

    Raises:
        AuditorError: it can't be read.
    """
    if (folder / "adapter_config.json").exists():
        return read_adapter(folder, base)
    if base is None:
        found = WeightDelta()
        found.unsupported["base"] = "a full fine-tune is read as its difference from the base: pass --base"
        return found
    found = read_finetune(folder, base)
    if found.ratio is None or found.ratio < PLAUSIBLE_RATIO:
        return found
    try:
        subject = load_subject(str(folder), base=str(base.folder))
        turned = turned_back(subject.tuned, subject.model)
    except AuditorError as error:
        found.readings.append(f"the change is {found.ratio:.2f} of the base's own norm, which no fine-tune is; {error}")
        return found
    if turned.ratio is None or turned.ratio > PLAUSIBLE_RATIO:
        found.readings.append(
            f"the change is {found.ratio:.2f} of the base's own norm, which no fine-tune is, and no symmetry explains it"
        )
        return found
    turned.readings += found.readings
    turned.unsupported |= found.unsupported
    turned.company += found.company
    return turned
