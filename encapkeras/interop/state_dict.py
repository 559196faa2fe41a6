"""The weights of a model as a state dict of the original, in both directions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import torch

from encapkeras.errors import LONGEST_NAME, MOST_SHOWN, ArgumentError, CheckpointError, printable
from encapkeras.functional.batch_norm import WARM_BATCHES
from encapkeras.interop.efficient_names import DECODER
from encapkeras.interop.layer_names import COUNTER
from encapkeras.interop.network_names import namings, original_tensors, uncalled
from encapkeras.interop.original_tensor import OriginalTensor
from encapkeras.model.spec_model import SpecModel
from encapkeras.text import counted, cut, listed

_COMPILED = "_orig_mod."  # what torch.compile puts before the names of what it compiles, at any depth
_AVERAGED = "n_averaged"  # the counter that torch's AveragedModel puts next to the weights


def load_original_state_dict(model: keras.Model, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Load weights of a method's released PyTorch code into a model.

    Names follow from the structure of the network, whose nodes may have any names; or they are those of the nodes, as
    in all networks that route in windows: whichever the state dict has. Numbers are converted to the dtype of the
    model's weights. Counters `num_batches_tracked` are optional, and read by warm batch norms alone, which take the
    statistics for those of ten batches without. Prefixes that all names have are removed, such as `module.` of
    `torch.nn.DataParallel` or `model.` of a class around the network, and `_orig_mod.` of `torch.compile`.

    Args:
        model: A model made by `encapkeras.build_model`, or loaded by `encapkeras.load_model`.
        state_dict: Tensors by their names in the original, on any device.

    Raises:
        ArgumentError: `model` was not made from a spec, or is on the device "meta"; or `state_dict` is not a map.
        CheckpointError: The original has no counterpart for a part of the network, or entries of the state dict are
            missing, unknown, of another shape, not finite floating-point numbers, or variances below 0. The message
            lists up to 50 of them, and the model is unchanged.

    Examples:
        >>> import encapkeras
        >>> model, other = (encapkeras.build_model("capsnet_dynamic_digits") for _ in range(2))
        >>> load_original_state_dict(model, original_state_dict(other))
        >>> bool((model.get_layer("digits").kernel.value == other.get_layer("digits").kernel.value).all())
        True
    """
    tensors, given = _named_alike(namings(_of_a_spec(model)), state_dict)
    ignored = uncalled(model)
    if any(tensor.variable.value.is_meta for tensor in tensors):
        raise ArgumentError(
            f"model '{model.name}' is on the device \"meta\", where weights have no values. Make it on another device."
        )
    wrong = [f"{tensor.name}: {problem}" for tensor in tensors if (problem := _problem(tensor, given))]
    unknown = _unknown_entries(tensors, {name: given[name] for name in given if not str(name).startswith(ignored)})
    if wrong or unknown:
        found = len(wrong) + len(unknown)
        shown = [f"  {problem}\n" for problem in [*wrong[:MOST_SHOWN], *unknown][:MOST_SHOWN]]
        more = f"  ... and {found - len(shown):,} more\n" if found > len(shown) else ""
        raise CheckpointError(
            f"the state dict does not fit network '{model.name}':\n{''.join(shown)}{more}{counted(found, 'error')} "
            f"found; {len(tensors) - len(wrong)} of the {len(tensors)} tensors of the network are valid. "
            f"{_units_without_loss(unknown)}{_decoder_alone(wrong, unknown)}Nothing was loaded."
        )
    for tensor in tensors:
        if tensor.name in given:
            tensor.assign(given[tensor.name].detach())
        else:  # only counters may be missing
            tensor.variable.assign(WARM_BATCHES)


def original_state_dict(model: keras.Model) -> dict[str, torch.Tensor]:
    """Return the weights of a model with the names and shapes of the method's released PyTorch code.

    Names follow from the structure of the network; from those of its nodes if it routes in windows, or has another
    structure than the original. Counters `num_batches_tracked` are 0 but those of warm batch norms, since the others do
    not count.

    Args:
        model: A model made by `encapkeras.build_model`, or loaded by `encapkeras.load_model`.

    Returns:
        Copies of the weights, in their dtype and on their device.

    Raises:
        ArgumentError: `model` was not made from a spec.
        CheckpointError: The original has no counterpart for a part of the network.

    Examples:
        >>> import encapkeras
        >>> state_dict = original_state_dict(encapkeras.build_model("encapnet_master_sub2"))
        >>> state_dict["module1.main_conv.block.0.conv.0.weight"].shape
        torch.Size([64, 1, 3, 3])
    """
    state_dict = {}
    for tensor in original_tensors(_of_a_spec(model)):
        value = tensor.from_ours()
        state_dict[tensor.name] = value.long() if _is_counter(tensor.name) else value
        if counter := _counter(tensor.name):  # the next tensor replaces it, if the batch norm counts
            state_dict[counter] = torch.zeros((), dtype=torch.int64, device=value.device)
    return state_dict


def _of_a_spec(model: Any) -> SpecModel:
    if not isinstance(model, SpecModel):
        raise ArgumentError(
            "the original's names follow from a spec: make the model with encapkeras.build_model, or load one that was "
            f"made with it. Received {type(model).__name__}."
        )
    return model


def _named_alike(
    namings: Sequence[list[OriginalTensor]], state_dict: Any
) -> tuple[list[OriginalTensor], dict[Any, Any]]:
    """Return the tensors under the names of which the state dict has most, and its entries without prefixes."""
    choices = []
    for tensors in namings:
        names = {tensor.name for tensor in tensors}
        given = _without_prefixes(state_dict, names)
        choices.append((len(names & given.keys()), tensors, given))
    _, tensors, given = max(choices, key=lambda choice: choice[0])
    return tensors, given


def _without_prefixes(state_dict: Any, known: Collection[str]) -> dict[Any, Any]:
    """Return the entries without what wrappers put before all of their names, as long as none is a known name."""
    if not isinstance(state_dict, Mapping):
        raise ArgumentError(f"a state dict is a map of tensors by name; received {type(state_dict).__name__}")
    given = dict(state_dict)
    if not all(isinstance(name, str) for name in given):
        return given
    given = {name.replace(_COMPILED, ""): value for name, value in given.items() if name != _AVERAGED}
    while given and not any(name in known for name in given):
        prefixes = {name.partition(".")[0] for name in given}
        if len(prefixes) > 1 or not all("." in name for name in given):
            break
        given = {name.partition(".")[2]: value for name, value in given.items()}
    return given if any(name in known for name in given) else dict(state_dict)


def _counter(name: str) -> str:
    """Return the counter next to the running variance of a batch norm; empty for other names."""
    norm = name.removesuffix("running_var")
    return f"{norm}{COUNTER}" if norm != name else ""


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == COUNTER


def _unknown_entries(tensors: Sequence[OriginalTensor], given: Mapping[Any, Any]) -> list[str]:
    """List entries for no tensor of the network, and counters of batch norms that are not tensors."""
    names = {tensor.name for tensor in tensors}
    counters = {counter for name in names if (counter := _counter(name))}
    problems = []
    for name, value in given.items():
        if name in names:
            continue
        if name not in counters:
            problems.append(f"{printable(cut(str(name), LONGEST_NAME))}: the network has no such tensor")
        elif not isinstance(value, torch.Tensor):
            problems.append(f"{name}: {_no_tensor(value)}")
    return problems


def _units_without_loss(unknown: Sequence[str]) -> str:
    """Return a hint where all unknown entries are optimal-transport units, which prediction does not need."""
    units = dict.fromkeys(entry.partition(".")[0] for entry in unknown)
    if not units or not all(unit.endswith("_ot_loss") for unit in units):
        return ""
    return (
        f"{listed(units)}: the spec needs an optimal_transport loss for each, with a latent tensor of that module; "
        "or leave these entries out of the state dict. "
    )


def _decoder_alone(wrong: Sequence[str], unknown: Sequence[str]) -> str:
    """Return a hint where one of network and file has a decoder and the other does not, and all else fits."""
    if not all(problem.startswith(DECODER) for problem in (*wrong, *unknown)):
        return ""
    if wrong and not unknown and all(": missing" in problem for problem in wrong):
        return (
            "The file has no decoder, which prediction does not need: --set losses.reconstruction=null leaves it out. "
        )
    if unknown and not wrong:
        return "The network has no decoder: the spec needs a reconstruction loss, or leave these entries out. "
    return ""


def _problem(tensor: OriginalTensor, given: Mapping[Any, Any]) -> str:
    """Say what is wrong with the entry for a tensor; empty if it is valid."""
    counts = _is_counter(tensor.name)
    if tensor.name not in given:
        return "" if counts else f"missing; the network needs shape {tensor.shape}"
    value = given[tensor.name]
    if not isinstance(value, torch.Tensor):
        return _no_tensor(value)
    if torch.nn.parameter.is_lazy(value):
        return f"has no values yet; received {type(value).__name__}"
    if value.layout != torch.strided or value.is_nested or value.is_meta:
        return f"is not a plain array of numbers (layout {value.layout}, device {value.device})"
    if tuple(value.shape) != tensor.shape:
        return f"has shape {tuple(value.shape)}; the network needs {tensor.shape}"
    if value.is_complex() or not (value.is_floating_point() or counts):
        return f"has dtype {value.dtype}; the network needs floating-point numbers"
    dtype = keras.backend.standardize_dtype(tensor.variable.dtype)
    numbers = value.detach().to(getattr(torch, dtype))  # torch does not compare numbers of 8 bits
    if not torch.isfinite(numbers).all():
        return f"has numbers that are not finite in {dtype}"
    is_variance = tensor.name.endswith(("running_var", "moving_variance"))
    if (is_variance or counts) and (numbers < 0).any():
        return "is below 0" if counts else "has variances below 0"
    return ""


def _no_tensor(value: Any) -> str:
    return f"is not a tensor; received {type(value).__name__}"
