"""Images of every kind become upright grey or colour pixels, in arrays of one size."""

import sys
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from onward.data import Items, images, load_images
from onward.data.images import (
    ASPECTS,
    FORMATS,
    MAX_PIXELS,
    central_box,
    decode,
    is_image,
    load_views,
    random_box,
    to_pixels,
)
from onward.errors import ConfigurationError, DataError, MissingExtraError

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def encode(image, kind="PNG", **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode_image(image, kind="PNG", **options):
    return decode(encode(image, kind, **options), "an image")


def two_pixels(mode, left, right):
    image = Image.new(mode, (2, 1))
    image.putpixel((0, 0), left)
    image.putpixel((1, 0), right)
    return image


def pixels_of(image):
    return [image.getpixel((x, 0)) for x in range(image.width)]


COLOURS = two_pixels("RGB", RED, GREEN)
PALETTE = COLOURS.convert("P", palette=Image.Palette.ADAPTIVE)
INDEXED = two_pixels("P", 0, 1)
INDEXED.putpalette([*RED, *GREEN])
INKS = Image.new("CMYK", (2, 1), (0, 255, 255, 0))
TURNED = Image.Exif()
TURNED[0x0112] = 3  # by 180 degrees, as the camera noted


@pytest.mark.parametrize(
    ("image", "options", "mode", "expected"),
    [
        pytest.param(two_pixels("L", 0, 200), {}, "L", [0, 200], id="grey"),
        pytest.param(COLOURS, {}, "RGB", [RED, GREEN], id="colour"),
        pytest.param(two_pixels("1", 0, 1), {}, "L", [0, 255], id="black-and-white"),
        pytest.param(two_pixels("I;16", 0x0101, 0xFFFF), {}, "L", [1, 255], id="sixteen-bit"),
        pytest.param(PALETTE, {}, "RGB", [RED, GREEN], id="palette"),
        pytest.param(INKS, {"kind": "TIFF"}, "RGB", [RED, RED], id="cmyk"),
        pytest.param(COLOURS, {"exif": TURNED}, "RGB", [GREEN, RED], id="turned"),
        pytest.param(
            two_pixels("RGBA", (*RED, 255), (*GREEN, 0)), {}, "RGB", [RED, WHITE], id="transparent"
        ),
        pytest.param(
            two_pixels("LA", (10, 255), (10, 0)), {}, "L", [10, 255], id="grey-transparent"
        ),
        pytest.param(INDEXED, {"transparency": 1}, "RGB", [RED, WHITE], id="clear-in-a-palette"),
        pytest.param(
            two_pixels("L", 0, 100), {"transparency": 0}, "L", [255, 100], id="clear-grey"
        ),
        pytest.param(COLOURS, {"transparency": RED}, "RGB", [WHITE, GREEN], id="clear-colour"),
        pytest.param(
            two_pixels("I;16", 0, 30000), {"transparency": 0}, "L", [255, 117], id="clear-of-16-bit"
        ),
    ],
)
def test_images_of_every_mode_become_grey_or_colour_upright_and_on_white(
    image, options, mode, expected
):
    decoded = decode_image(image, **options)
    assert decoded.mode == mode
    assert pixels_of(decoded) == expected


def test_of_an_animation_the_first_picture_counts():
    pictures = [Image.new("RGB", (2, 2), color) for color in (RED, GREEN)]
    decoded = decode_image(pictures[0], "GIF", save_all=True, append_images=pictures[1:])
    assert decoded.getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "photo.png cannot be read as an image: it has 0 bytes", id="empty"),
        pytest.param(b"hello", "no image format was recognised", id="text"),
        pytest.param(
            encode(Image.effect_noise((64, 64), 50))[:2000], "(?i)truncated", id="truncated"
        ),
        pytest.param(
            encode(Image.new("F", (2, 2)), "TIFF"), "values are floating-point", id="floating-point"
        ),
        pytest.param(
            encode(Image.new("I", (2, 2), -5), "TIFF"), "go from -5 to -5, not 0 to", id="negative"
        ),
    ],
)
def test_an_unreadable_image_is_an_error_that_names_it(content, words):
    with pytest.raises(DataError, match=words) as raised:
        decode(content, "photo.png")
    assert str(raised.value).startswith("photo.png cannot be read as an image")
    assert "skip_bad=True" in str(raised.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_an_image_cut_off_anywhere_is_an_error(kind):
    content = encode(Image.effect_noise((32, 32), 50), kind)
    for kept in (10, len(content) // 2, len(content) * 9 // 10):
        with pytest.raises(DataError, match="cut-off cannot be read as an image"):
            decode(content[:kept], "cut-off")


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "SGI", "PALM", "MSP", "XBM", "QOI", "DDS"])
def test_no_other_reader_of_pillows_is_let_loose_on_a_file(kind, tmp_path):
    mode = "1" if kind in ("PALM", "MSP", "XBM") else "RGB"
    content = encode(Image.new(mode, (16, 16)), kind)
    with pytest.raises(DataError, match=r"no image format was recognised .*AVIF, BMP.*; convert"):
        decode(content, "photo")
    (tmp_path / "photo").write_bytes(content)
    assert not is_image(str(tmp_path / "photo"))


@pytest.mark.parametrize(("tag", "value"), [(50706, b"\x01\x04\0\0"), (254, 1)])
def test_a_raw_photo_is_refused_and_its_thumbnail_never_taken_for_it(tag, value):
    content = encode(Image.new("RGB", (16, 16)), "TIFF", tiffinfo={tag: value})
    with pytest.raises(DataError, match="it is a raw photo, and only its small preview could be r"):
        decode(content, "photo")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_that_is_listed_is_read(kind):
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    assert decode_image(image, kind).size == (16, 16)


def test_an_image_of_too_many_pixels_is_refused_and_the_limit_can_be_raised(monkeypatch):
    content = encode(Image.new("L", (40, 30)))
    with pytest.raises(DataError, match=r"photo cannot be .*more than 1,199 pixels.*max_pixels="):
        decode(content, "photo", max_pixels=1199)
    assert decode(content, "photo", max_pixels=1200).size == (40, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses above twice as many
    monkeypatch.setattr(images, "MAX_PIXELS", 200)
    with pytest.raises(DataError, match="more than 200 pixels, and a damaged or malicious file"):
        decode(content, "photo", max_pixels=200)
    assert decode(content, "photo", max_pixels=1200).size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_limit_is_that_of_pillow_unless_another_one_is_stated():
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


@given(st.binary(max_size=200))
def test_whatever_the_bytes_are_the_only_error_is_a_data_error(content):
    with pytest.raises(DataError):
        decode(content, "noise")


def test_without_pillow_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    for opens in (lambda: decode(b"x", "photo.png"), lambda: is_image("photo")):
        with pytest.raises(MissingExtraError, match=r"pip install 'onward\[vision\]'"):
            opens()


def test_an_image_of_the_right_size_is_not_resampled():
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(to_pixels(Image.fromarray(values), 8, 1)[0], values)


def test_the_centre_of_a_longer_image_is_kept():
    values = np.arange(8 * 14, dtype=np.uint8).reshape(8, 14)
    np.testing.assert_array_equal(to_pixels(Image.fromarray(values), 8, 1)[0], values[:, 3:11])
    np.testing.assert_array_equal(to_pixels(Image.fromarray(values.T), 8, 1)[0], values.T[3:11])


def test_resizing_the_centre_is_resizing_the_shorter_side_and_cropping():
    image = Image.effect_noise((60, 40), 50)
    cropped = image.resize((30, 20), Image.Resampling.BICUBIC).crop((5, 0, 25, 20))
    ours = to_pixels(image, 20, 1)[0].astype(int)
    np.testing.assert_array_equal(ours[:, 2:-2], np.asarray(cropped).astype(int)[:, 2:-2])


def test_a_share_of_the_shorter_side_is_resizing_to_256_and_cropping_224():
    image = Image.effect_noise((300, 200), 50)
    ours = to_pixels(image, 28, 1, central_box(300, 200, 224 / 256))[0].astype(int)
    theirs = np.asarray(image.resize((48, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(ours - theirs[2:30, 10:38])[2:-2, 2:-2].max() <= 1
    assert np.abs(ours - to_pixels(image, 28, 1)[0]).mean() > 5


@pytest.mark.parametrize(
    ("size", "share", "box"),
    [
        ((30, 20), 1.0, (5, 0, 25, 20)),
        ((20, 30), 1.0, (0, 5, 20, 25)),
        ((320, 256), 0.875, (48, 16, 272, 240)),
    ],
)
def test_the_central_box_worked_by_hand(size, share, box):
    assert central_box(*size, share) == box


def test_random_boxes_are_of_any_share_from_the_least_and_of_the_whole_image():
    random, width, height = np.random.default_rng(0), 400, 300
    boxes = np.array([random_box(width, height, 0.08, random) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    across, down = right - left, bottom - top
    shares = across * down / (width * height)
    assert (boxes >= 0).all()
    assert (right <= width + 1e-9).all()
    assert (bottom <= height + 1e-9).all()
    assert 0.08 <= shares.min() < 0.09
    assert 0.95 < shares.max() <= 1
    assert ASPECTS[0] <= (across / down).min() < 0.76
    assert 1.32 < (across / down).max() <= ASPECTS[1] + 1e-9
    assert left.min() < 1  # what the central square leaves out is looked at too
    assert right.max() > width - 1


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000)])
def test_where_no_random_box_fits_it_is_the_largest_central_one(size):
    box = random_box(*size, 0.9, np.random.default_rng(0))
    half = 10 * 4 / 3 / 2
    expected = np.array([500 - half, 0, 500 + half, 10])
    np.testing.assert_allclose(box, expected if size[0] == 1000 else expected[[1, 0, 3, 2]])


def test_an_image_is_decoded_once_for_all_its_views(monkeypatch):
    decoded = []

    def open_one(self, row):
        decoded.append(row)
        return Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))

    monkeypatch.setattr(Items, "open", open_one)

    def boxes(row, width, height):
        assert (width, height) == (8, 8)
        return [tuple(map(float, (at, at, at + 4, at + 4))) for at in (0, row)]

    ids, none = ("a", "b", "c"), ({},) * 3
    items = Items(ids, np.zeros(3, np.int64), {0: "zero"}, none, "a test")
    pixels = load_views(items, 4, 1, [2, 1], boxes, views=2)
    assert (pixels.shape, decoded) == ((2, 2, 1, 4, 4), [1, 2])
    assert pixels[:, :, 0, 0, 0].tolist() == [[0, 0], [18, 9]]


def test_shrinking_averages_fine_patterns():
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    assert np.ptp(to_pixels(Image.fromarray(stripes), 8, 1)[0, :, 1:-1]) < 60


def test_grey_becomes_three_equal_channels_and_colour_becomes_its_luma():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    tripled = to_pixels(Image.fromarray(grey), 8, 3)
    assert tripled.shape == (3, 8, 8)
    np.testing.assert_array_equal(tripled, np.stack([grey] * 3))
    luma = to_pixels(Image.new("RGB", (4, 4), (100, 150, 200)), 4, 1)
    assert luma[0, 0, 0] == round(0.299 * 100 + 0.587 * 150 + 0.114 * 200)


def test_channels_come_first():
    pixels = to_pixels(two_pixels("RGB", RED, GREEN).resize((2, 2), 0), 2, 3)
    assert pixels[:, 0, 0].tolist() == list(RED)
    assert pixels[:, 0, 1].tolist() == list(GREEN)


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (1, 1), (5, 7)])
def test_images_of_any_shape_become_squares(shape):
    assert to_pixels(Image.new("RGB", shape, RED), 6, 3).shape == (3, 6, 6)


def test_rows_are_loaded_in_the_order_asked_for():
    items = Items(
        ids=("a", "b", "c"),
        labels=np.zeros(3, dtype=np.int64),
        class_names={0: "zero"},
        payloads=({"digits": 0}, {"digits": 1}, {"digits": 2}),
        source="a test",
    )
    pixels = load_images(items, 8, 1)
    assert (pixels.shape, pixels.dtype) == ((3, 1, 8, 8), np.uint8)
    np.testing.assert_array_equal(load_images(items, 8, 1, rows=[2, 0, 2]), pixels[[2, 0, 2]])
    assert load_images(items, 8, 3, rows=[]).shape == (0, 3, 8, 8)


def test_a_size_or_number_of_channels_that_makes_no_sense_is_refused():
    image = Image.new("L", (4, 4))
    with pytest.raises(ConfigurationError, match="images of 0 pixels were asked for"):
        to_pixels(image, 0, 1)
    with pytest.raises(ConfigurationError, match=r"images of 4 channels .* give 1 .* or 3"):
        to_pixels(image, 4, 4)
