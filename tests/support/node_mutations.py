"""Changes to nodes, blocks and losses of a spec, and to how they refer to each other."""

import copy
import random
from typing import Any

from support.mutation_values import KERAS_ARGUMENTS, SCALARS, SIZES, TEXTS, anything, near_value, sample_arguments
from support.spec_starts import Mutation, all_nodes, as_map, node_maps, references

from encapkeras.layers import LAYERS
from encapkeras.losses import LOSSES


def add(chance: random.Random, m: Mutation) -> bool:
    """A node or a loss gets an argument that its kind takes, or a key that every one may have."""
    losses = [loss for loss in as_map(m.spec.get("losses")).values() if as_map(loss)]
    owners = [node for _, _, node in all_nodes(m.spec)] + losses
    if not owners:
        return False
    owner = chance.choice(owners)
    common = {
        "trainable": False,
        "dtype": "float64",
        "doc": "text",
        "expect": [4, 4],
        "weight": 0.5,
        "repeat": [{"i": 1}],
    }
    known = {**sample_arguments(owner.get("layer", owner.get("loss"))), chance.choice(list(common)): None}
    key = chance.choice(list(known))
    value = common[key] if key in common else known[key]
    owner[key] = near_value(chance, value, m.spec) if chance.random() < 0.5 else value
    return True


def move(chance: random.Random, m: Mutation) -> bool:
    """A node goes to another place in the order, or to the nodes of a block; or an argument to another node."""
    nodes = all_nodes(m.spec)
    if len(nodes) < 2:
        return False
    parent, name, node = chance.choice(nodes)
    _, _, other = chance.choice(nodes)
    if chance.random() < 0.5 and node is not other:
        key = chance.choice(list(node))
        other[key] = node.pop(key)
        return True
    target = chance.choice(node_maps(m.spec))
    moved = parent.pop(name)
    entries = list(target.items())
    entries.insert(chance.randint(0, len(entries)), (name, moved))
    target.clear()
    target.update(entries)
    return True


def swap_type(chance: random.Random, m: Mutation) -> bool:
    """A node has another layer, or a loss is another; sometimes with the arguments that this needs."""
    losses = [("loss", loss) for loss in as_map(m.spec.get("losses")).values() if as_map(loss)]
    owners = [("layer", node) for _, _, node in all_nodes(m.spec)] + losses
    if not owners:
        return False
    key, owner = chance.choice(owners)
    blocks = [f"block.{name}" for name in as_map(m.spec.get("blocks"))]
    new = chance.choice([*LAYERS, *KERAS_ARGUMENTS, *blocks] if key == "layer" else list(LOSSES))
    if chance.random() < 0.6:
        kept = {"layer", "inputs", "repeat", "loss", "latent", "target", "weight"}
        for name in [name for name in owner if name not in kept]:
            del owner[name]
        owner.update(copy.deepcopy(sample_arguments(new)))
    owner[key] = new
    return True


def redirect(chance: random.Random, m: Mutation) -> bool:
    """A reference names another node, port, input or node inside a block; or one reference more, or one fewer."""
    holders: list[tuple[dict[str, Any], str, dict[str, Any]]] = []
    for nodes in node_maps(m.spec):
        holders += [(node, "inputs", nodes) for node in nodes.values() if "inputs" in as_map(node)]
    top = as_map(as_map(m.spec.get("model")).get("nodes"))
    outputs = as_map(as_map(m.spec.get("model")).get("outputs"))
    holders += [(outputs, name, top) for name in outputs]
    holders += [
        (block, "output", as_map(block.get("nodes")))
        for block in as_map(m.spec.get("blocks")).values()
        if as_map(block)
    ]
    for loss in as_map(m.spec.get("losses")).values():
        holders += [
            (loss, key, top) for key in as_map(loss) if key in ("latent", "target", "image", "capsules", "labels")
        ]
    if not holders:
        return False
    holder, key, nodes = chance.choice(holders)
    odd = ["nothing", "labels", "labels/classes", "stem/nothing", "a.b", "/", ""]
    new = chance.choice(odd if chance.random() < 0.1 else references(m.spec, nodes))
    before = holder[key]
    if isinstance(before, list) and before:
        index = chance.randrange(len(before))
        holder[key] = chance.choice([[*before[:index], new, *before[index + 1 :]], [*before, new], before[1:] or new])
    elif chance.random() < 0.15:
        holder[key] = [before, new]
    else:
        holder[key] = new
    return bool(holder[key] != before)


def rows(chance: random.Random, m: Mutation) -> bool:
    """Rows of a `repeat` are more, fewer, in another order, or have other variables; or a node gets rows."""
    repeated = [node for _, _, node in all_nodes(m.spec) if isinstance(node.get("repeat"), list) and node["repeat"]]
    if not repeated:
        nodes = all_nodes(m.spec)
        if not nodes:
            return False
        parent, name, node = chance.choice(nodes)
        node["repeat"] = [{"i": number} for number in range(1, chance.randint(1, 4))]
        node["inputs"] = "$previous"
        parent[f"{name}$i"] = parent.pop(name)
        return True
    node = chance.choice(repeated)
    table = node["repeat"]
    row = chance.choice(table)
    how = chance.randrange(6)
    if how == 0:
        table.append({**copy.deepcopy(row), "i": len(table) + 1} if as_map(row) else row)
    elif how == 1:
        table.remove(row)
    elif how == 2:
        chance.shuffle(table)
    elif how == 3:
        table.append(copy.deepcopy(row))
    elif how == 4 and as_map(row):
        row[chance.choice(list(row))] = chance.choice(SCALARS)
    elif as_map(row):
        del row[chance.choice(list(row))]
    return True


def block(chance: random.Random, m: Mutation) -> bool:
    """A block's parameters, inputs or nodes are others; a node becomes a block of itself; blocks name each other."""
    blocks = {name: part for name, part in as_map(m.spec.get("blocks")).items() if as_map(part)}
    how = chance.randrange(8)
    if not blocks or how == 0:
        return _into_a_block(chance, m)
    name = chance.choice(list(blocks))
    part = blocks[name]
    parameters = part.setdefault("parameters", {})
    inner = as_map(part.get("nodes"))
    if how == 1 and as_map(parameters):
        parameters[chance.choice(list(parameters))] = chance.choice(["required", *SIZES, *TEXTS])
    elif how == 2 and as_map(parameters):
        del parameters[chance.choice(list(parameters))]
    elif how == 3 and isinstance(parameters, dict):
        parameters[chance.choice(["more", "filters", "strides", "inputs", "layer", "input", "previous"])] = "required"
    elif how == 4:
        part["inputs"] = chance.choice([["first", "second"], ["input", "input"], [], "input", ["image"], ["a b"]])
    elif how == 5 and inner:
        as_map(inner[chance.choice(list(inner))])["layer"] = f"block.{chance.choice(list(blocks))}"
    elif how == 6:
        users = [node for _, _, node in all_nodes(m.spec) if str(node.get("layer")).startswith("block.")]
        if not users:
            return False
        chance.choice(users)[chance.choice(["filters", "strides", "more", "expect", "trainable", "dtype"])] = anything(
            chance
        )
    else:
        m.spec["blocks"][chance.choice(["other", "a.b", "$i", ""])] = m.spec["blocks"].pop(name)
    return True


def _into_a_block(chance: random.Random, m: Mutation) -> bool:
    """A node becomes a use of a new block that holds it."""
    nodes = [node for _, _, node in all_nodes(m.spec) if isinstance(node.get("inputs"), str) and "repeat" not in node]
    if not nodes or not isinstance(m.spec.setdefault("blocks", {}), dict):
        return False
    node = chance.choice(nodes)
    name = chance.choice(["one", "two", "three"])
    own = {key: value for key, value in node.items() if key not in ("inputs", "expect", "repeat", "doc")}
    numbers = [key for key, value in own.items() if type(value) in (int, float, bool)]
    handed = {key: own[key] for key in numbers if chance.random() < 0.5}
    inner = {**own, **{key: f"${key}" for key in handed}, "inputs": "input"}
    m.spec["blocks"][name] = {"parameters": dict.fromkeys(handed, "required"), "nodes": {"it": inner}, "output": "it"}
    outside = {key: value for key, value in node.items() if key in ("inputs", "expect")}
    node.clear()
    node.update({"layer": f"block.{name}", **outside, **handed})
    return True


def several(chance: random.Random, m: Mutation) -> bool:
    """A second input, a second output with its loss, or a loss on a tensor inside."""
    model = m.spec.setdefault("model", {})
    nodes = as_map(as_map(model).get("nodes"))
    if not nodes:
        return False
    reference = chance.choice(references(m.spec, nodes))
    how = chance.randrange(3)
    if how == 0:
        model["inputs"] = {
            "image": [16, 16, 3],
            chance.choice(["other", "labels"]): chance.choice([[8], [None, 4], [0]]),
        }
    elif how == 1 and as_map(model.setdefault("outputs", {})) and isinstance(m.spec.setdefault("losses", {}), dict):
        model["outputs"]["second"] = reference
        m.spec["losses"]["second"] = {"loss": chance.choice(list(LOSSES)), "weight": 0.5}
    elif isinstance(m.spec.setdefault("losses", {}), dict):
        other = chance.choice(references(m.spec, nodes))
        units = {"loss": "optimal_transport", "latent": reference, "target": other, "weight": 2}
        m.spec["losses"]["unit"] = chance.choice(
            [units, {"loss": "reconstruction", "capsules": reference, "image": "image"}]
        )
    return True
