"""What a `.keras` file that somebody else made can do: be refused, by one error that names it."""

import io
import json
import sys
import zipfile

import h5py
import keras
import pytest

from encapkeras import EncapkerasError, build_model, load_model

SPEC = {
    "spec": "encapkeras/1",
    "name": "small",
    "model": {
        "inputs": {"image": [4, 4, 3]},
        "nodes": {
            "flat": {"layer": "keras.Flatten", "inputs": "image"},
            "scores": {"layer": "keras.Dense", "inputs": "flat", "units": 3},
        },
        "outputs": {"classes": "scores"},
    },
}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The parts of a saved model of a spec."""
    path = tmp_path_factory.mktemp("models") / "ours.keras"
    build_model(SPEC).save(path)
    return parts(path)


@pytest.fixture(scope="module")
def with_function(tmp_path_factory):
    """The parts of a saved model that calls a function of Keras."""
    path = tmp_path_factory.mktemp("models") / "function.keras"
    keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Lambda(keras.activations.relu)]).save(path)
    assert load_model(path).layers
    return parts(path)


def parts(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def refused(tmp_path, content, name="bad.keras"):
    path = tmp_path / name
    with zipfile.ZipFile(path, "w") as file:
        for part, data in content.items():
            file.writestr(part, data)
    with pytest.raises(EncapkerasError) as error:
        load_model(path)
    message = str(error.value)
    assert message.startswith(f"'{path}' cannot be loaded: ")
    assert len(message) < 1500
    return message


def configured(content, change):
    config = json.loads(content["config.json"])
    change(config)
    return {**content, "config.json": json.dumps(config)}


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("keras.visualization", "plot_image_gallery", {"value_range": [0, 255], "path": "PATH"}),
        ("keras", "visualization.plot_image_gallery", {"value_range": [0, 255], "path": "PATH"}),
        ("keras.utils", "plot_model", {"to_file": "PATH"}),
        ("keras.datasets.mnist", "load_data", {}),
        ("keras.applications", "ResNet50", {}),
        ("os", "system", {}),
    ],
)
@pytest.mark.parametrize("as_class", [False, True])
def test_functions_that_do_not_compute_are_refused(tmp_path, with_function, module, name, arguments, as_class):
    arguments = {key: str(tmp_path / "victim") if value == "PATH" else value for key, value in arguments.items()}

    def change(config):
        own = config["config"]["layers"][1]["config"]
        found = {"class_name": name, "config": {}} if as_class else {"class_name": "function", "config": name}
        own |= {"function": {"module": module, "registered_name": None, **found}, "arguments": arguments}

    refused(tmp_path, configured(with_function, change))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.keras"]


def test_code_is_not_run(tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x + 1)]).save(tmp_path / "code.keras")
    with pytest.raises(EncapkerasError, match=r"cannot be loaded: .*lambda"):
        load_model(tmp_path / "code.keras")


def test_modules_are_not_imported(tmp_path, ours, monkeypatch):
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('it was run')")
    monkeypatch.syspath_prepend(tmp_path)
    names = {"module": "hostile_module", "class_name": "X", "registered_name": "X"}
    refused(tmp_path, configured(ours, lambda config: config.update(names)))
    assert "hostile_module" not in sys.modules


@pytest.mark.parametrize("name", ["../victim", "assets/../../victim", "/victim"])
def test_nothing_is_written_outside(tmp_path, ours, name):
    (tmp_path / "inner").mkdir()
    refused(tmp_path / "inner", {**ours, name: b"x", "assets/x": b"x"})
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "bad.keras"]


def changed_weights(content, change):
    written = io.BytesIO(content["model.weights.h5"])
    with h5py.File(written, "r+") as file:
        names = []
        file.visititems(lambda name, entry: names.append(name) if isinstance(entry, h5py.Dataset) else None)
        kernel = max(names, key=lambda name: file[name].size)
        shape, dtype = file[kernel].shape, file[kernel].dtype
        del file[kernel]
        change(file, kernel, shape, dtype)
    return {**content, "model.weights.h5": written.getvalue()}


def external_link(file, name, shape, dtype):
    file[name] = h5py.ExternalLink("/etc/hostname", "/x")


def external_data(file, name, shape, dtype):
    file.create_dataset(name, shape, dtype, external=[("/etc/hostname", 0, 1000)])


def soft_link(file, name, shape, dtype):
    file[name] = h5py.SoftLink("/")


@pytest.mark.parametrize("change", [external_link, external_data, soft_link])
def test_weights_of_elsewhere_are_refused(tmp_path, ours, change):
    refused(tmp_path, changed_weights(ours, change))


def test_no_weight_is_left_as_it_was_drawn(tmp_path, ours):
    def without_layers(file, name, shape, dtype):
        for group in list(file):
            del file[group]

    refused(tmp_path, changed_weights(ours, without_layers))


@pytest.mark.parametrize(
    "config", ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "", "1", "null", '"x"', "[]", "{}", "\ud800"]
)
def test_any_configuration(tmp_path, ours, config):
    refused(tmp_path, {**ours, "config.json": config.encode("utf-8", "surrogatepass")})


@pytest.mark.parametrize("name", ["spec", "plugins", "class_names", "policy", "policies", "frozen"])
@pytest.mark.parametrize("value", [1, "x", [1], {"a": 1}, None, ["x" * 100_000]], ids=lambda value: str(value)[:9])
def test_any_value(tmp_path, ours, name, value):
    content = configured(ours, lambda config: config["config"].update({name: value}))
    try:
        refused(tmp_path, content)
    except pytest.fail.Exception:  # a network can be made of some
        assert name in ("class_names", "frozen", "plugins", "policies")


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", value) for value in ("x", 0, -1.0, True, [1])] + [("classes_per_image", n) for n in (0, "2", 1.5)],
)
def test_what_its_scores_mean(tmp_path, ours, name, value):
    assert name in refused(tmp_path, configured(ours, lambda config: config["config"].update({name: value})))


def test_a_spec_in_it_names_no_other_files(tmp_path, ours, monkeypatch):
    (tmp_path / "base.yaml").write_text("spec: encapkeras/1\nname: base\n")
    monkeypatch.chdir(tmp_path)
    content = configured(ours, lambda config: config["config"]["spec"].update(extends="base.yaml"))
    assert "extends" in refused(tmp_path, content)


def test_entries_of_its_spec_that_are_null(tmp_path, ours):
    """They take a node or loss away where a spec extends another, and used to fail when the model was saved again."""
    content = configured(ours, lambda config: config["config"]["spec"].setdefault("losses", {}).update(more=None))
    assert "null" in refused(tmp_path, content)


def test_only_files_called_keras(tmp_path, ours):
    """Keras reads `.h5` in another way."""
    refused(tmp_path, ours, "bad.h5")
