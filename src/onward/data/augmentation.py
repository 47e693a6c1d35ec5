"""Random changes to training images, each image its own, on whole batches.

The functions return torch modules that take and give float images in [0, 1] (but for rounding), of
shape batch x channel x size x size, on any device, in training and in eval mode alike. The draws
come from torch's global generator, so `torch.manual_seed` repeats them.
"""

try:
    from kornia import augmentation
    from torch import nn
except ImportError as error:
    from onward.errors import MissingExtraError

    raise MissingExtraError("kornia", "vision") from error

TINY, SMALL, LARGE = 16, 32, 64  # pixels


def simclr_augmentation(
    size: int,
    channels: int,
    *,
    flip: bool = False,
    strength: float = 0.5,
    cropped: bool = False,
) -> nn.Module:
    """Return what makes two views of one image differ, for contrastive training.

    A random crop of 0.2 to 1 of the area, resized to the whole, but of 0.5 to 1 up to 16 pixels,
    where less leaves nothing to recognise; colour jitter (4 of 5 images) and grey (1 of 5); blur
    (half of the images) above 32 pixels alone, where there is detail to lose. Grey images get
    brightness and contrast instead of colour.

    Args:
        size: height and width of the images, in pixels.
        channels: 1 for grey, 3 for colour.
        flip: mirror half of the images; wrong where left and right matter, as in digits.
        strength: of the jitter; 0 is none, 0.5 suits small images, 1 is SimCLR's for ImageNet.
        cropped: each image is a random crop already, and is not cropped again.

    References:
        Chen, Kornblith, Norouzi, Hinton, A Simple Framework for Contrastive Learning of Visual
        Representations, ICML 2020, appendices A and B.9.
    """
    steps = [] if cropped else [_resized_crop(size, 0.5 if size <= TINY else 0.2)]
    if flip:
        steps.append(augmentation.RandomHorizontalFlip(p=0.5))
    most = 0.8 * strength
    if channels == 1:
        steps.append(augmentation.RandomBrightness((1 - most, 1 + most), p=0.8))
        steps.append(augmentation.RandomContrast((1 - most, 1 + most), p=0.8))
    else:
        steps.append(augmentation.ColorJitter(most, most, most, most / 4, p=0.8))
        steps.append(augmentation.RandomGrayscale(p=0.2))
    if size > SMALL:
        width = max(3, size // 10 | 1)  # a tenth of the image, odd
        steps.append(augmentation.RandomGaussianBlur((width, width), (0.1, 2.0), p=0.5))
    return nn.Sequential(*steps)


def supervised_augmentation(size: int, flip: bool, *, cropped: bool = False) -> nn.Module:
    """Return what makes images differ from epoch to epoch, for training with labels.

    Below 64 pixels the image is shifted by up to an eighth of its size (4 of 32 pixels) and its
    border mirrored; from 64 pixels on a random crop of a quarter or more of the area is resized to
    the whole.

    Args:
        size: height and width of the images, in pixels.
        flip: mirror half of the images; wrong where left and right matter, as in digits.
        cropped: each image is a random crop already, and is neither cropped again nor shifted.
    """
    border = max(1, size // 8)
    if cropped:
        steps = list[nn.Module]()
    elif size >= LARGE:
        steps = [_resized_crop(size, 0.25)]
    else:
        steps = [augmentation.RandomCrop((size, size), padding=border, padding_mode="reflect")]
    if flip:
        steps.append(augmentation.RandomHorizontalFlip(p=0.5))
    return nn.Sequential(*steps)


def _resized_crop(size: int, least: float) -> nn.Module:
    crop: nn.Module = augmentation.RandomResizedCrop(
        (size, size), scale=(least, 1.0), cropping_mode="resample"
    )
    return crop
