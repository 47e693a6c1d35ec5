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

from onward.errors import ConfigurationError

Range = tuple[float, float]

TINY, SMALL, LARGE = 16, 32, 64  # pixels


def simclr_augmentation(
    size: int,
    channels: int,
    *,
    flip: bool = False,
    crop_scale: Range | None = None,
    strength: float = 0.5,
) -> nn.Module:
    """Return what makes two views of one image differ, for contrastive training.

    A random crop resized to the whole, colour jitter (4 of 5 images) and grey (1 of 5); blur (half
    of the images) above 32 pixels alone, where there is detail to lose. Grey images get brightness
    and contrast instead of colour.

    Args:
        size: height and width of the images, in pixels.
        channels: 1 for grey, 3 for colour.
        flip: mirror half of the images; wrong where left and right matter, as in digits.
        crop_scale: smallest and largest share of the area that a crop keeps; 0.2 to 1, but 0.5 to 1
            up to 16 pixels, where less leaves nothing to recognise.
        strength: of the jitter; 0 is none, 0.5 suits small images, 1 is SimCLR's for ImageNet.

    Raises:
        ConfigurationError: if the size, the channels, the scale or the strength make no sense.

    References:
        Chen, Kornblith, Norouzi, Hinton, A Simple Framework for Contrastive Learning of Visual
        Representations, ICML 2020, appendices A and B.9.
    """
    scale = crop_scale or ((0.5, 1.0) if size <= TINY else (0.2, 1.0))
    if not 0 <= strength <= 1:
        raise ConfigurationError(f"a jitter of strength {strength} was asked for", "give 0 to 1")
    steps = [_resized_crop(size, channels, scale)]
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


def supervised_augmentation(
    size: int, channels: int, flip: bool, *, crop_scale: Range = (0.25, 1.0)
) -> nn.Module:
    """Return what makes images differ from epoch to epoch, for training with labels.

    Below 64 pixels the image is shifted by up to an eighth of its size (4 of 32 pixels) and its
    border mirrored; from 64 pixels on a random crop is resized to the whole.

    Args:
        size: height and width of the images, in pixels.
        channels: 1 for grey, 3 for colour.
        flip: mirror half of the images; wrong where left and right matter, as in digits.
        crop_scale: from 64 pixels on, the smallest and largest share of the area that a crop keeps.

    Raises:
        ConfigurationError: if the size, the channels or the scale make no sense.
    """
    if size >= LARGE:
        steps = [_resized_crop(size, channels, crop_scale)]
    else:
        _check(size, channels, crop_scale)
        border = max(1, size // 8)
        steps = [augmentation.RandomCrop((size, size), padding=border, padding_mode="reflect")]
    if flip:
        steps.append(augmentation.RandomHorizontalFlip(p=0.5))
    return nn.Sequential(*steps)


def _resized_crop(size: int, channels: int, scale: Range) -> nn.Module:
    _check(size, channels, scale)
    crop: nn.Module = augmentation.RandomResizedCrop(
        (size, size), scale=scale, cropping_mode="resample"
    )
    return crop


def _check(size: int, channels: int, scale: Range) -> None:
    if size < 2:
        raise ConfigurationError(f"images of {size} pixels cannot be augmented", "give at least 2")
    if channels not in (1, 3):
        raise ConfigurationError(
            f"images of {channels} channels were given",
            "augmentation knows 1 (grey) and 3 (colour)",
        )
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ConfigurationError(
            f"a crop scale of {scale} was asked for",
            "give the smallest and the largest share of "
            "the area that a crop keeps, such as (0.2, 1.0)",
        )
