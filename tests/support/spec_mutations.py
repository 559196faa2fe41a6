"""Changes to the bundled specs that know what a spec is made of: to any of its values, and the choice among all."""

import copy
import random
from typing import Any

from support.mutation_values import SIZES, anything, near_value
from support.node_mutations import add, block, move, redirect, rows, several, swap_type
from support.spec_starts import STARTS, Mutation, at, node_maps, places, whole, written


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
