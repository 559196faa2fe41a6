"""CIFAR-100."""

from __future__ import annotations

from encapkeras.data.files import DatasetFiles, torchvision_download
from encapkeras.data.readers.cifar import CifarReader
from encapkeras.data.registry import register_dataset

CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm""".split()
)


@register_dataset("cifar100")
class Cifar100(CifarReader):
    """Photographs in a hundred classes: 50,000 training and 10,000 test images of 32x32 color pixels.

    Args:
        root: Folder with the files `train` and `test`, or with torchvision's folder `cifar-100-python` of them.
    """

    class_names = CLASSES
    label_key = "fine_labels"
    files = DatasetFiles(
        dataset="cifar100",
        names=("train", "test"),
        subfolder="cifar-100-python",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html (CIFAR-100 python version, unpacked)",
        download=torchvision_download("CIFAR100"),
    )
