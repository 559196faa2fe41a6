"""Changes to the bundled specs that know what a spec is made of."""

import copy
import random
from typing import Any

from support.mutation_values import KERAS_ARGUMENTS, SCALARS, SIZES, TEXTS, anything, near_value, sample_arguments
from support.spec_starts import STARTS, Mutation, all_nodes, as_map, at, node_maps, places, references, whole, written

from encapkeras.layers import LAYERS
from encapkeras.losses import LOSSES


def mutation(seed: int, number: int) -> Mutation:
    """The spec of this number, always the same: a bundled one with one to three changes."""
    chance = random.Random(f"{seed}:{number}")  # noqa: S311
    start = chance.choice(STARTS)
    as_written = chance.random() < 0.25
    result = Mutation(start, copy.deepcopy((written if as_written else whole)(start)))
    result.as_json = chance.random() < 0.2
    if not as_written and chance.random() < 0.4:
        _without_expectations(result.spec)
    wanted = chance.choice((1, 1, 1, 2, 3))
    for _ in range(50):
        kind = chance.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
        change, _ = KINDS[kind]
        if change(chance, result):
            result.kinds.append(kind)
            if len(result.kinds) == wanted or not result.spec:
                break
    return result


def _without_expectations(spec: dict[str, Any]) -> None:
    """Most changes of sizes contradict an `expect`; without it they go on to what lies behind."""
    for nodes in node_maps(spec):
        for node in nodes.values():
            if isinstance(node, dict):
                node.pop("expect", None)


def _picked(chance: random.Random, spec: dict[str, Any], inside: tuple[str, ...] = ()) -> tuple[Any, ...] | None:
    paths = [path for path in places(spec) if not inside or path[0] in inside]
    return chance.choice(paths) if paths else None


def near(chance: random.Random, m: Mutation) -> bool:
    """A value becomes another of its kind."""
    section = chance.choice([("model", "vars", "blocks"), ("model", "vars", "blocks"), ("losses",), ("data", "train")])
    leaves = [p for p in places(m.spec) if p[0] in section and not isinstance(at(m.spec, p), dict)]
    if not leaves:
        return False
    path = chance.choice(leaves)
    parent, before = at(m.spec, path[:-1]), at(m.spec, path)
    parent[path[-1]] = near_value(chance, before, m.spec)
    return repr(parent[path[-1]]) != repr(before)


def replace(chance: random.Random, m: Mutation) -> bool:
    """A value becomes anything."""
    path = _picked(chance, m.spec)
    if path is None:
        return False
    at(m.spec, path[:-1])[path[-1]] = anything(chance)
    return True


def remove(chance: random.Random, m: Mutation) -> bool:
    """An entry or an element is gone."""
    path = _picked(chance, m.spec)
    if path is None:
        return False
    del at(m.spec, path[:-1])[path[-1]]
    return True


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


def setting(chance: random.Random, m: Mutation) -> bool:
    """A setting of `data` or `train` is given."""
    key, value = chance.choice(
        [
            ("data.validation", 0.2),
            ("data.image_size", chance.choice(SIZES)),
            ("data.augment", {"resize": 40, "crop": True, "mirror": True, "hue": 0.2}),
            ("data.batch_size", chance.choice(SIZES)),
            ("data.path", "none.npz"),
            ("train.schedule", {"kind": chance.choice(["cosine", "one_cycle", "step"]), "warmup_epochs": 1}),
            ("train.clip_norm", 1.0),
            ("train.early_stopping", {"patience": 3}),
            ("train.analysis", {"every": 2}),
            ("train.weight_decay", {"kind": "decoupled", "rate": 0.1}),
            ("train.optimizer", {"kind": "sgd", "nesterov": True}),
        ]
    )
    section, _, name = key.partition(".")
    if not isinstance(m.spec.setdefault(section, {}), dict):
        return False
    m.spec[section][name] = value
    return True


def copied(chance: random.Random, m: Mutation) -> bool:
    """A value takes the place of another."""
    path, other = _picked(chance, m.spec), _picked(chance, m.spec)
    if path is None or other is None or path[: len(other)] == other:
        return False
    value = copy.deepcopy(at(m.spec, other))
    at(m.spec, path[:-1])[path[-1]] = value
    return True


def rename(chance: random.Random, m: Mutation) -> bool:
    """A key is called otherwise: a near name, another key, or something odd."""
    paths = [path for path in places(m.spec) if isinstance(path[-1], str)]
    if not paths:
        return False
    path = chance.choice(paths)
    parent, key = at(m.spec, path[:-1]), path[-1]
    names = [
        key[:-1],
        f"{key}s",
        key.upper(),
        "types",
        "inputs",
        "layer",
        "labels",
        "image",
        "a.b",
        "a/b",
        "$i",
        "stage1",
    ]
    new = chance.choice([name for name in names if name and name != key])
    entries = {new if name == key else name: value for name, value in parent.items()}
    parent.clear()
    parent.update(entries)
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


def nest(chance: random.Random, m: Mutation) -> bool:
    """A value is wrapped in a list or a map, or one that holds a single value is unwrapped."""
    path = _picked(chance, m.spec)
    if path is None:
        return False
    parent, key = at(m.spec, path[:-1]), path[-1]
    value = parent[key]
    if isinstance(value, dict | list) and len(value) == 1 and chance.random() < 0.5:
        parent[key] = value[0] if isinstance(value, list) else next(iter(value.values()))
    else:
        for _ in range(chance.choice((1, 1, 2, 70))):
            value = chance.choice([[value], {str(key): value}])
        parent[key] = value
    return True


def variable(chance: random.Random, m: Mutation) -> bool:
    """A number becomes a variable, or arithmetic that may or may not come to the same."""
    numbers = [path for path in places(m.spec) if path[0] in ("model", "blocks") and type(at(m.spec, path)) is int]
    if not numbers or not isinstance(m.spec.setdefault("vars", {}), dict):
        return False
    path = chance.choice(numbers)
    value = at(m.spec, path)
    name = chance.choice(["size", "width2", "_x"])
    m.spec["vars"][name] = chance.choice([value, value, f"$({value})", f"${name}", "$classes", value / 2, [value]])
    text = chance.choice(
        [f"${name}", f"$({name})", f"$({name} * 2 // 2)", f"$({name} + 1)", f"$(2 ** {name})", f"{name}$"]
    )
    at(m.spec, path[:-1])[path[-1]] = text
    return True


def override(chance: random.Random, m: Mutation) -> bool:
    """A value is changed by `--set`, with a sound path or a slip in it."""
    leaves = [path for path in places(m.spec) if not isinstance(at(m.spec, path), dict | list)]
    if not leaves:
        return False
    path = chance.choice(leaves)
    value = near_value(chance, at(m.spec, path), m.spec) if chance.random() < 0.8 else anything(chance)
    name = ".".join(map(str, path))
    name = chance.choice([name, name, name, f"{name}s", f"{name}.more", name.replace(".", "..", 1)])
    m.overrides.append(f"{name}={value!r}" if not isinstance(value, str) else f"{name}={value}")
    return True


def extends(chance: random.Random, m: Mutation) -> bool:
    """The spec extends other files, or others than before."""
    others = [
        "quickstart.yaml",
        "resnet14.yaml",
        "base/authors_recipe.yaml",
        "base/encapnet.yaml",
        "none.yaml",
        "../x.yaml",
    ]
    one = chance.choice(others)
    m.spec["extends"] = chance.choice([one, [one, chance.choice(others)], [], None, 3, ""])
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


def sweep(chance: random.Random, m: Mutation) -> bool:
    """Variants are swept over."""
    leaves = [path for path in places(m.spec) if type(at(m.spec, path)) in (int, float, str)]
    if not leaves:
        return False
    path = chance.choice(leaves)
    name = ".".join(map(str, path))
    values = [at(m.spec, path), near_value(chance, at(m.spec, path), m.spec)]
    m.spec["sweep"] = chance.choice(
        [{"grid": {name: values}}, {"list": [{name: values[1]}], "seeds": 2}, {"seeds": values}]
    )
    return True


KINDS = {
    "near": (near, 36),
    "redirect": (redirect, 10),
    "swap_type": (swap_type, 8),
    "add": (add, 6),
    "rows": (rows, 5),
    "block": (block, 8),
    "variable": (variable, 4),
    "setting": (setting, 5),
    "override": (override, 5),
    "several": (several, 4),
    "move": (move, 5),
    "copy": (copied, 3),
    "replace": (replace, 3),
    "remove": (remove, 3),
    "rename": (rename, 3),
    "nest": (nest, 3),
    "extends": (extends, 2),
    "sweep": (sweep, 2),
}
