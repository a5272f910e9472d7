"""Put an adapter on a model in memory: its factors through PEFT, what it replaces as tensors that are switched with them.

PEFT writes some of what an adapter holds over the base's own weights: biases, embeddings that were saved whole. Here the
base keeps its own, and the adapter's stand beside them, so that both can answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, PeftModelForCausalLM
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, nn

from tools.changes.adapter import Adapter, Pair, fit_rows
from tools.changes.agreement import damage
from tools.errors import AdapterError

Replaced = dict[str, nn.Parameter]
"""Parameters of the base, by name, and what stands in their place while an adapter answers."""
TINY = 1e-12


def put_on(model: Any, name: str, adapter: Adapter) -> tuple[Any, Replaced]:
    """Return the model with the adapter's factors under `name`, and what the adapter replaces; it is not switched on.

    Raises:
        AdapterError: something of it can't be read, or did not arrive in the model.
    """
    adapter.refuse_what_is_unread()
    if wrong := damage(adapter):
        raise AdapterError(
            f"{adapter.folder} can't be loaded as its configuration has it: {wrong[0]}; get the files again"
        )
    replaced = _replaced(model, adapter)
    if adapter.pairs:
        config = _config(adapter)
        try:
            model = _with_layers(model, name, config)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            take_off(model)
            raise AdapterError(f"{adapter.folder} could not be put on this base: {error}") from error
        _fill(model, name, adapter)
    return model, replaced


def _with_layers(model: Any, name: str, config: LoraConfig) -> Any:
    if isinstance(model, PeftModel):
        model.add_adapter(name, config, autocast_adapter_dtype=False)
        return model
    return PeftModelForCausalLM(model, config, adapter_name=name, autocast_adapter_dtype=False)


def _config(adapter: Adapter) -> LoraConfig:
    """Return the configuration that makes exactly the layers for which there are factors."""
    raw, pairs = adapter.settings.raw, list(adapter.pairs.values())
    ranks = {pair.name: adapter.rank(pair) for pair in pairs}
    alphas = {pair.name: adapter.settings.alpha(pair.key) for pair in pairs}
    r, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    keys = {pair.name: pair.key for pair in pairs}
    return LoraConfig(
        r=r, lora_alpha=alpha, task_type="CAUSAL_LM", inference_mode=True,  # type: ignore[arg-type]
        target_modules=[p.path for p in pairs if not p.by_itself],
        target_parameters=[p.name for p in pairs if p.by_itself] or None,
        rank_pattern={keys[name]: rank for name, rank in ranks.items() if rank != r},
        alpha_pattern={keys[name]: one for name, one in alphas.items() if one != alpha},
        use_rslora=bool(raw.get("use_rslora")), use_dora=any("magnitude" in p.keys for p in pairs),
        lora_bias=any("bias" in p.keys for p in pairs), fan_in_fan_out=any(_turned(p, adapter) for p in pairs),
        alora_invocation_tokens=raw.get("alora_invocation_tokens") or None,
    )  # fmt: skip


def _turned(pair: Pair, adapter: Adapter) -> bool:
    return not pair.embedding and adapter.base is not None and adapter.base.turned(pair.name)


def _fill(model: Any, name: str, adapter: Adapter) -> None:
    """Fill the layers that were made, and see that everything arrived: each tensor in a layer, each layer with its tensors.

    Raises:
        AdapterError: something is left over on either side.
    """
    wrappers = {
        (path, getattr(m, "parameter_name", "weight")): (full, m)
        for full, path, m in lora_layers(model)
        if has(m, name)
    }
    state, wanted = {}, set()
    for pair in adapter.pairs.values():
        full = wrappers.pop((pair.path, pair.parameter), ("", None))[0]
        if not full:
            raise AdapterError(f"{adapter.folder}: the factors of {pair.name} were not taken up by PEFT")
        b, a = adapter.factors(pair)
        for side, tensor in (("A", a), ("B", b)):
            key = f"lora_embedding_{side}.{name}" if pair.embedding else f"lora_{side}.{name}.weight"
            state[f"{full}.{key}"] = tensor
        if "bias" in pair.keys:
            state[f"{full}.lora_B.{name}.bias"] = adapter.read(pair.keys["bias"])
        if "magnitude" in pair.keys:
            state[f"{full}.lora_magnitude_vector.{name}.weight"] = adapter.read(pair.keys["magnitude"])
    for full, _, module in lora_layers(model):
        if has(module, name):
            wanted |= {f"{full}.{key}" for key, _ in module.named_parameters() if _is_factor(key, name)}
    own = dict(model.named_parameters())
    misfit = [key for key, tensor in state.items() if key not in own or own[key].shape != tensor.shape]
    left = [*wrappers.values(), *(wanted - state.keys()), *misfit]
    if left:
        _remove(model, name)
        raise AdapterError(
            f"{adapter.folder}: {len(left)} of {len(state)} tensors were not taken up or are missing, first {str(left[0])[:120]}"
        )
    with torch.no_grad():
        for key, tensor in state.items():
            own[key].copy_(tensor)


def _is_factor(key: str, name: str) -> bool:
    parts = key.split(".")
    return parts[0].startswith("lora_") and parts[1:2] == [name]


def _remove(model: Any, name: str) -> None:
    if isinstance(model, PeftModel) and len(model.peft_config) > 1:
        model.delete_adapter(name)
    else:
        take_off(model)


def has(module: LoraLayer, name: str) -> bool:
    """Return whether a layer carries this adapter's factors."""
    return name in module.lora_A or name in module.lora_embedding_A


def lora_layers(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Yield every layer that carries LoRA factors: its full path, its path in the base, and itself."""
    for full, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield full, base_path(full), module


def base_path(full: str) -> str:
    """Return a module's path in the base, without what PEFT puts around it."""
    parts = [part for part in full.removeprefix("base_model.model.").split(".") if part != "base_layer"]
    return ".".join(parts)


def take_off(model: nn.Module) -> None:
    """Put a base's own layers back where a load that failed had wrapped them."""
    for path, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer) and ".base_layer" not in path:
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layer.get_base_layer())


# -- what replaces the base's own


def _replaced(model: Any, adapter: Adapter) -> Replaced:
    """Return the parameters that the adapter puts in place of the base's, in the model's own format and place.

    Raises:
        AdapterError: one of them does not fit.
    """
    found = {name: adapter.read(key) for name, key in adapter.whole.items()}
    for name in adapter.tokens:
        places, rows = adapter.rows(name)
        found[name] = parameter(model, name).detach().clone()
        found[name][places] = rows.to(found[name])
    for name, tensor in found.items():
        own = parameter(model, name)
        if adapter.is_table(name):
            found[name] = tensor = fit_rows(tensor.to(own), len(own), own.detach())
        if tensor.shape != own.shape:
            raise AdapterError(
                f"{adapter.folder} was made for another base: it saved {name} as {list(tensor.shape)}, the base's is {list(own.shape)}"
            )
    return {name: nn.Parameter(t.to(parameter(model, name)), requires_grad=False) for name, t in found.items()}


def parameter(model: Any, name: str) -> nn.Parameter:
    """Return a parameter of the base by its name in the base, under whatever stands around its module."""
    module, leaf = _holder(model, name)
    found: nn.Parameter = getattr(module, leaf)
    return found


def _holder(model: Any, name: str) -> tuple[nn.Module, str]:
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    path, _, leaf = name.rpartition(".")
    module = plain
    for part in path.split(".") if path else []:
        module = getattr(module, part)
        while isinstance(module, LoraLayer):
            module = module.get_base_layer()
    return module, leaf


def swap(model: Any, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Put these parameters into the base, and return those that stood in their places: swapped in, they undo it."""
    before = {}
    for name, own in parameters.items():
        module, leaf = _holder(model, name)
        before[name] = module._parameters[leaf]
        module._parameters[leaf] = own
    return before  # type: ignore[return-value]


# -- the null beside it


def null_config(model: Any, name: str) -> LoraConfig:
    """Return the configuration of a LoRA of the same ranks on the same matrices as an adapter's; no variant of it."""
    config = model.peft_config[name]
    return LoraConfig(
        r=config.r, lora_alpha=config.lora_alpha, target_modules=config.target_modules, task_type=config.task_type,
        target_parameters=config.target_parameters, rank_pattern=config.rank_pattern, alpha_pattern=config.alpha_pattern,
        use_rslora=config.use_rslora, fan_in_fan_out=config.fan_in_fan_out,
    )  # fmt: skip


def fill_null(model: Any, name: str, like: Mapping[str, float], seed: int) -> None:
    """Fill a LoRA with random factors, each matrix's change of the squared norm that `like` has there; zero where it has none."""
    generator = torch.Generator().manual_seed(seed)
    energy: dict[str, float] = {}
    for path, value in like.items():
        energy[path.rpartition(".")[0] if path.rpartition(".")[2].isdigit() else path] = value + energy.get(path, 0.0)
    with torch.no_grad():
        for _, path, module in lora_layers(model):
            if not has(module, name):
                continue
            key = path if getattr(module, "parameter_name", "weight") == "weight" else f"{path}.{module.parameter_name}"
            parts = _parts(module, name)
            for part in parts:
                part.copy_(torch.randn(part.shape, generator=generator).to(part))
            wanted = energy.get(key, 0.0) ** 0.5
            parts[1].mul_(wanted / max(delta_norm(module, name), TINY))


def _parts(module: Any, name: str) -> tuple[Tensor, Tensor]:
    """Return a layer's factors A and B."""
    if name in module.lora_embedding_A:
        return module.lora_embedding_A[name], module.lora_embedding_B[name]
    return module.lora_A[name].weight, module.lora_B[name].weight


def delta_norm(module: Any, name: str) -> float:
    """Return the Frobenius norm of a layer's low-rank change, 0 where the adapter does not touch it.

    `||s B A||² = s² tr((BᵀB)(AAᵀ))`: the change itself is never formed. Of stacked experts it is that of all of them.
    """
    if not has(module, name):
        return 0.0
    a, b = (part.double() for part in _parts(module, name))
    scale = float(module.scaling[name])
    n = module.num_experts if isinstance(module, ParamWrapper) else 1
    if n > 1:
        a, b = a.reshape(n, -1, a.shape[-1]), b.reshape(b.shape[0], -1, n).permute(2, 0, 1)
    squared = float(((b.mT @ b) * (a @ a.mT)).sum())
    norm: float = scale * max(squared, 0.0) ** 0.5
    return norm


def assert_active(layers: Iterable[tuple[str, str, Any]], name: str | None) -> None:
    """Assert that exactly this adapter answers on every one of the `lora_layers` that has it; None for the base."""
    for path, _, module in layers:
        if name is None:
            assert module.disable_adapters, f"{path}: an adapter is active where the base was asked"
        elif has(module, name):
            active = [] if module.disable_adapters else list(module.active_adapters)
            assert active == [name], f"{path}: active are {active}, {name!r} was asked"
