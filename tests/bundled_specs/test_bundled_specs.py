"""Every spec that comes with encapkeras: its size, its resolved form, one pass of data."""

import keras
import numpy as np
import pytest

from encapkeras import build_model, load_spec
from encapkeras.spec.bundled import bundled_specs
from encapkeras.summary.node_table import parameters

# Trainable numbers, on the spec's own data set; those of the paper's networks are the original's.
PARAMETERS = {
    "quickstart": 295_584,
    "deepcaps_mnist": 8_441_920 + 58_417,  # with the decoder
    "deepcaps_cifar10": 13_359_424 + 67_571,
    "deepcaps_cifar10_small": 8_444_224 + 42_227,
    "deepcaps_digits": 671_937,
    "encapnet_digits": 138_576,
    "encapnet_ot_digits": 268_374,
    "encapnet_mnist": 3_796_806,
    "encapnet_fashion_mnist": 3_796_806,
    "encapnet_svhn": 3_797_382,
    "encapnet_cifar10": 3_797_382,
    "encapnet_cifar100": 4_534_662,
    "encapnet_master": 1_757_440,
    "encapnet_master_sub2": 1_729_920,
    "encapnet_master_wide": 1_900_800,
    "encapnet_approximate": 45_215_040,
    "encapnet_approximate_deep": 73_169_728,
    "encapnet_table_master": 1_689_856,
    "encapnet_table_approximate": 8_124_224,
    "encapnet_ot": 3_797_382,
    "encapnet_ot_approximate": 28_262_918,
    "encapnet_ot_encapsulated": 2_083_206,
    "encapnet_ot_no_critic": 3_500_928,
    "encapnet_ot_cosine": 3_797_382,
    "encapnet_ot_biased": 3_797_382,
    "encapnet_ot_envelope": 3_797_382,
    "encapnet_ot_adversarial": 3_797_382,
    "encapnet_ot_all": 36_850_892,
    "capnet_dynamic": 2_835_712,
    "capnet_em": 2_910_580,
    "capsnet_dynamic": 699_648,
    "capsnet_em": 773_492,
    "capsnet_dynamic_digits": 102_528,
    "capsnet_em_digits": 121_028,
    "capsnet_pairs_digits": 197_024,
    "capnet_dynamic_fashion_mnist": 2_835_136,
    "capnet_em_fashion_mnist": 2_910_004,
    "capsnet_dynamic_fashion_mnist": 658_176,
    "capsnet_em_fashion_mnist": 732_020,
    "capsnet_sabour": 8_215_568,
    "capsnet_sabour_fashion_mnist": 8_215_568,
    "fashion_mnist_best": 928_024,
    "fashion_mnist_plain": 927_182,
    "encapnet_master_small": 486_752,
    "encapnet_table_small": 810_120,
    "plain_pairs_digits": 197_370,
    "plain_small": 483_978,
    "resnet14": 175_258,
    "resnet14_fashion_mnist": 174_970,
    "resnet14_ot": 201_472,
    "resnet_same_shape": 1_575_690,
    "resnet_similar_size": 9_624_782,
    "self_routing_resnet20": 931_664,
    "self_routing_resnet20_depth2": 3_187_536,
    "self_routing_resnet20_depth3": 5_704_528,
    "self_routing_resnet20_svhn": 931_664,
    "em_resnet20": 911_204,
    "em_resnet20_depth2": 813_988,
    "em_resnet20_depth3": 962_532,
    "dynamic_resnet20": 5_807_888,
    "dynamic_resnet20_depth2": 4_236_048 - 1_024,  # batch norms that the authors count, but never call
    "dynamic_resnet20_depth3": 6_596_368 - 2_048,
    "average_resnet20": 269_722,
    "max_resnet20": 269_722,
    "fc_resnet20": 647_450,
    "self_routing_convnet": 814_960,
    "self_routing_convnet_depth2": 3_331_952,
    "em_convnet": 812_410,
    "em_convnet_depth2": 960_954,
    "dynamic_convnet": 1_389_872,
    "dynamic_convnet_depth2": 3_749_168,
    "average_convnet": 144_309,
    "fc_convnet": 775_477,
    "self_routing_smallnet": 2_432_864,
    "em_smallnet": 1_837_898,
    "dynamic_smallnet": 2_978_560,
    "inverted_attention_cifar10": 1_828_817,
    "inverted_attention_cifar100": 2_799_629,
    "variational_bayes_small_norb": 68_714,
    "variational_bayes_small_norb_tiny": 206_154,
    "heinsen_2019_small_norb": 271_688,
    "em_small_norb": 67_154,
    "efficient_capsnet": 161_824 + 1_411_344,  # encoder and decoder
    "efficient_capsnet_small_norb": 151_664 + 229_570,
    "mobilenet_digits": 132_560,
    "homogeneous_vectors_cifar10": 1_952_022,
    "homogeneous_vectors_mnist": 1_513_686,
    "homogeneous_vectors_small_norb": 1_828_166,
    "routing_attention": 118_369,
    "routing_affine": 100_240,
    "routing_average": 24_058,
    "routing_dynamic": 429_296,
    "routing_em": 112_668,
    "routing_heinsen_2019": 235_416,
    "routing_heinsen_2022": 102_619,
    "routing_homogeneous_vectors": 54_832,
    "routing_self": 271_880,
    "routing_self_attention": 430_592,
    "routing_uniform": 429_584,
    "routing_variational_bayes": 112_632,
    "sequence_average": 13_156,
    "shapes_capsules": 33_536,
    "shapes_unet": 33_604,
    "sequence_capsules": 13_880,
    "sequence_gru": 14_084,
}
FILES = {file.stem: file for file in bundled_specs().glob("*.yaml")}


def test_every_spec_has_its_parameters_written_here():
    assert set(FILES) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_parameters_are_exact(name):
    with keras.device("meta"):
        model = build_model(FILES[name])
    assert parameters(model) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("", [], {"small_norb": 68_714, "mnist": 68_404}),
        ("", ["primary_types=16"], {"small_norb": 95_882, "mnist": 95_572, "svhn": 98_772}),
        (
            "",
            ["primary_types=16", "first_types=32", "second_types=32"],
            {"small_norb": 244_682, "mnist": 245_652, "svhn": 248_852},
        ),
        ("_tiny", [], {"small_norb": 206_154, "mnist": 250_644}),
    ],
)
def test_other_lists_of_types_have_the_parameters_of_variational_bayes_code(name, changes, expected):
    changes = [f"vars.{change}" for change in changes]
    for dataset, size in expected.items():
        images = [] if dataset == "small_norb" else [f"data.dataset={dataset}", "data.channels=null"]
        with keras.device("meta"):
            model = build_model(FILES[f"variational_bayes_small_norb{name}"], [*changes, *images])
        assert parameters(model) == size


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_resolved_spec_reads_as_itself(name):
    spec = load_spec(FILES[name])
    assert load_spec(spec.resolved) == spec
    assert spec.name == name
    assert spec.resolved["source"]


@pytest.mark.parametrize("name", [name for name, size in PARAMETERS.items() if size < 2_000_000])
def test_a_batch_passes(name):
    spec = load_spec(FILES[name])
    model = build_model(spec)
    (size,) = spec.inputs.values()
    images = np.random.default_rng(0).uniform(size=(2, *size)).astype("float32")
    scores = model.predict(images, verbose=0)
    assert scores.shape == (2, *spec.info.output_shape)
    assert np.isfinite(scores).all()
    (loss,) = spec.make_losses().values()
    labels = np.arange(scores[..., 0].size).reshape(scores.shape[:-1]) % 2
    assert np.isfinite(float(loss(labels, scores)))


@pytest.mark.parametrize("name", ["encapnet_cifar10", "resnet14"])
@pytest.mark.parametrize("size", [28, 48])
def test_other_image_sizes_fit(name, size):
    with keras.device("meta"):
        model = build_model(FILES[name], [f"data.image_size={size}", "data.augment=null"])
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize("name", [name for name in PARAMETERS if "_ot" in name and "digits" not in name])
def test_units_of_the_authors_networks_start_as_their_layers_do(name):
    spec = load_spec(FILES[name])
    normal = {"class_name": "random_normal", "config": {"stddev": 1.0}}
    units = [loss for loss in spec.losses.values() if loss.loss == "optimal_transport"]
    assert units
    assert all((loss.arguments["bias_initializer"], loss.weight) == (normal, 20) for loss in units)
