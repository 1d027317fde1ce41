"""What is known of each data set before its files are opened. Needs no torch and no NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field

DIGITS = tuple("0123456789")
CIFAR10_CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
CIFAR100_CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
)


@dataclass(frozen=True)
class Facts:
    """One data set.

    Attributes:
        title: the name that papers use.
        loader: ``module:function`` within ``pdoe.data``.
        shape: of an image, ``(C, H, W)``; None: known once the files are read.
        class_names: in the order of the labels; empty: known once the files are read.
        images: numbers of training and test images, as published; None: there are none.
        subject: what the images show, for the card of a trained network.
        limit: what a network that was trained on these images cannot do.
        other_images: the numbers for a provenance that has other numbers than the published ones.
        transposed: rows and columns of each image are swapped in the files.
        keys: of its configuration, beside those that every set has.
    """

    title: str
    loader: str
    shape: tuple[int, int, int] | None
    class_names: tuple[str, ...]
    images: tuple[int, int] | None
    subject: str
    limit: str
    other_images: dict[str, tuple[int, int]] = field(default_factory=dict)
    transposed: bool = False
    keys: tuple[str, ...] = ()

    @property
    def own(self) -> bool:
        """Whether the images are the user's: ``data.root`` names their folder."""
        return self.shape is None

    @property
    def classes(self) -> int:
        return len(self.class_names)


#: The data sets: ``data.name`` in a configuration -> what is known of the set.
SETS: dict[str, Facts] = {
    "mnist_rot": Facts(
        title="MNIST-rot",
        loader="mnist_rot:load_mnist_rot",
        shape=(1, 28, 28),
        class_names=DIGITS,
        images=(12_000, 50_000),
        subject="single handwritten digits, bright on black, centred, of 28x28 pixels, at any "
        "angle",
        limit="A 6 and a 9 differ by a rotation: at an unknown angle they are confused. Any other "
        "image is also classified as a digit.",
        other_images={"embedded": (12_000, 10_000)},
        transposed=True,
        keys=("draw", "replacement"),
    ),
    "cifar10": Facts(
        title="CIFAR-10",
        loader="cifar:load_cifar10",
        shape=(3, 32, 32),
        class_names=CIFAR10_CLASSES,
        images=(50_000, 10_000),
        subject="colour images of 32x32 pixels of the ten classes of CIFAR-10",
        limit="Anything else gets one of the ten classes, too.",
    ),
    "cifar100": Facts(
        title="CIFAR-100",
        loader="cifar:load_cifar100",
        shape=(3, 32, 32),
        class_names=CIFAR100_CLASSES,
        images=(50_000, 10_000),
        subject="colour images of 32x32 pixels of the hundred classes of CIFAR-100",
        limit="Anything else gets one of the hundred classes, too.",
    ),
    "folder": Facts(
        title="own images",
        loader="folder:load_folder",
        shape=None,
        class_names=(),
        images=None,
        subject="images of a user's folder",
        limit="Anything else gets one of its classes, too.",
        keys=("size", "channels", "test_fraction", "split", "skip_broken"),
    ),
    "elpv": Facts(
        title="ELPV",
        loader="elpv:load_elpv",
        shape=(1, 64, 64),
        class_names=("functional", "defective"),
        images=(1_968, 656),
        subject="electroluminescence images of single solar cells, mono- and polycrystalline, "
        "upright, as small grey images",
        limit="Cells of other modules and cameras were not tested. Any other image is also "
        "classified as a functional or a defective cell.",
        keys=("draw", "size"),
    ),
}
