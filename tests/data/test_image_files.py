"""Image files of every kind as arrays, and what a file says that is none."""

import io
import itertools
import os
import struct
import subprocess
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from support.dataset_files import random_images, write_image, write_voc_boxes

from encapkeras.data import image_files, read_image
from encapkeras.data.object_boxes import read_box
from encapkeras.errors import DataError

COLOUR = random_images(1, 6, 9, 3)[0]


def saved(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def tiff_bytes(bits, data, shape, sample_format=1, *, zero_is_white=False):
    """A gray TIFF file with these declarations, uncompressed."""
    height, width = shape
    photometric = 0 if zero_is_white else 1
    entries = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 0,
        277: 1,
        278: height,
        279: len(data),
    }
    entries[339] = sample_format
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + data


def error_of(path, channels=3, box=None):
    with pytest.raises(DataError) as caught:
        read_image(path, channels, box)
    return str(caught.value)


@pytest.mark.smoke
def test_colours_and_their_grey(tmp_path):
    path = saved(tmp_path, Image.fromarray(COLOUR))
    assert np.array_equal(read_image(path, 3), COLOUR)
    grey = read_image(path, 1)
    assert grey.shape == (6, 9, 1)
    assert np.abs(grey[..., 0] - COLOUR @ [0.299, 0.587, 0.114]).max() <= 0.51


def test_grey_as_colours(tmp_path):
    pixels = COLOUR[..., 0]
    path = saved(tmp_path, Image.fromarray(pixels))
    assert np.array_equal(read_image(path, 1)[..., 0], pixels)
    assert all(np.array_equal(read_image(path, 3)[..., channel], pixels) for channel in range(3))


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_of_16_bits_the_upper_8_count(tmp_path, ending):
    pixels = np.array([[0, 255, 256, 65535], [1000, 40000, 128, 513]], np.uint16)
    path = saved(tmp_path, Image.fromarray(pixels), f"a{ending}")
    assert np.array_equal(read_image(path, 1)[..., 0], pixels >> 8)
    assert np.array_equal(read_image(path, 3)[..., 2], pixels >> 8)


def test_transparent_parts_are_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    path = saved(tmp_path, Image.fromarray(pixels, "RGBA"))
    assert read_image(path, 3).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]


def test_a_transparent_colour_of_a_palette_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path, image, "a.gif", transparency=1)
    assert read_image(path, 3).tolist() == [[[200, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr", "LA"])
def test_other_modes_are_converted(tmp_path, mode):
    image = Image.fromarray(COLOUR).convert(mode)
    path = saved(tmp_path, image, "a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    assert np.array_equal(read_image(path, 3), np.asarray(image.convert("RGB")))
    assert read_image(path, 1).shape == (6, 9, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(COLOUR), exif=exif)
    upright = {
        1: COLOUR,
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.transpose(1, 0, 2),
        6: COLOUR[::-1].transpose(1, 0, 2),
        7: COLOUR[::-1, ::-1].transpose(1, 0, 2),
        8: COLOUR[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    assert np.array_equal(read_image(path, 3), upright)


def test_a_box_is_in_stored_pixels_and_cut_at_the_edges(tmp_path):
    path = saved(tmp_path, Image.fromarray(COLOUR))
    assert np.array_equal(read_image(path, 3, (2, 1, 5, 4)), COLOUR[1:4, 2:5])
    assert np.array_equal(read_image(path, 3, (-3, 2, 100, 100)), COLOUR[2:])
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(tmp_path, Image.fromarray(COLOUR), "turned.png", exif=exif)
    assert np.array_equal(read_image(turned, 3, (2, 1, 5, 4)), COLOUR[1:4, 2:5][::-1].transpose(1, 0, 2))
    assert "holds no pixel of its 9x6" in error_of(path, box=(9, 0, 12, 3))


def test_the_first_image_of_a_moving_one(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(path, 3)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "it is empty"),
        (b"hello", "not in an image format that is read: JPEG, PNG"),
        (None, "there is no such file"),
    ],
)
def test_what_is_no_image(tmp_path, content, text):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    message = error_of(path)
    assert str(path) in message
    assert text in message


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.gif", "a.webp", "a.tif"])
@pytest.mark.parametrize("kept", [20, 0.5, -1])
def test_a_truncated_file_is_named_or_whole(tmp_path, name, kept):
    whole = write_image(tmp_path / name, (60, 50))
    data, pixels = whole.read_bytes(), read_image(whole, 3)
    whole.write_bytes(data[: round(len(data) * kept)] if isinstance(kept, float) else data[:kept])
    try:
        assert np.array_equal(read_image(whole, 3), pixels)  # the last byte of a format may tell nothing
        assert kept == -1
    except DataError as error:
        assert str(error).startswith(f"{whole} cannot be read as an image: ")


def test_numbers_that_are_no_pixels(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[0.5]], np.float32)), "a.tif")
    assert "floating-point numbers" in error_of(path)
    path.write_bytes(b"Pf\n1 1\n-1.0\n" + np.float32(0.5).tobytes())
    assert "floating-point numbers" in error_of(path)


@pytest.mark.parametrize("values", [[0, 255], [0, 4080], [0, 70000], [-1, 255]])
def test_integers_of_32_bits_are_refused_whatever_their_values(tmp_path, values):
    path = saved(tmp_path, Image.fromarray(np.array([values], np.int32)), "a.tif")
    assert "its pixels are 32-bit integers with a sign; save it with 8 or 16 bits without sign" in error_of(path)


@pytest.mark.parametrize(
    ("bits", "sample_format", "kind"),
    [(32, 1, "32-bit integers;"), (16, 2, "16-bit integers with a sign"), (8, 2, "8-bit integers with a sign")],
)
def test_of_a_tiff_file_its_declared_numbers_decide(tmp_path, bits, sample_format, kind):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(bits, np.full((1, 2), 7, f"<u{bits // 8}").tobytes(), (1, 2), sample_format))
    assert f"its pixels are {kind}" in error_of(path)


def test_12_bits_of_a_tiff_file_are_not_dark(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(12, bytes([0xFF, 0xF8, 0x00]), (1, 2)))
    assert read_image(path, 1)[..., 0].tolist() == [[255, 128]]


def test_16_bits_where_0_is_white_are_no_negative(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(16, np.array([0, 256, 65535], "<u2").tobytes(), (1, 3), zero_is_white=True))
    assert read_image(path, 1)[..., 0].tolist() == [[255, 254, 0]]


@pytest.mark.parametrize("largest", [1023, 65535])
def test_a_pgm_file_is_scaled_by_its_largest_value(tmp_path, largest):
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5\n2 1\n%d\n" % largest + np.array([0, largest], ">u2").tobytes())
    assert read_image(path, 1)[..., 0].tolist() == [[0, 255]]


def test_the_significant_bits_of_a_png_file_say_nothing_of_its_range(tmp_path):
    """The format asks for values over the whole range, whatever they had when they were measured."""
    pixels = np.array([[0, 4095 << 4]], np.uint16)
    path = saved(tmp_path, Image.fromarray(pixels))
    data, chunk = path.read_bytes(), b"sBIT\x0c"
    end = data.index(b"IDAT") - 4
    path.write_bytes(data[:end] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[end:])
    assert read_image(path, 1)[..., 0].tolist() == [[0, 255]]


def test_the_box_of_the_largest_object(tmp_path):
    assert read_box(write_voc_boxes(tmp_path / "a.xml", (1, 2, 4, 5), (0, 0, 9, 4), (3, 3, 4, 4))) == (0, 0, 9, 4)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<annotation></annotation>", "holds no box"),
        ("<annotation><object>", "cannot be read as the boxes of an image"),
        ("<a><object><bndbox><xmin>1</xmin></bndbox></object></a>", "cannot be read as the boxes"),
    ],
)
def test_a_damaged_box(tmp_path, content, text):
    path = tmp_path / "a.xml"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_box(path)
    assert str(path) in str(caught.value)
    assert text in str(caught.value)


def test_a_box_without_pixels(tmp_path):
    with pytest.raises(DataError, match=r"a box from \(4, 2\) to \(4, 9\) holds no pixel"):
        read_box(write_voc_boxes(tmp_path / "a.xml", (4, 2, 4, 9)))


def test_a_png_whose_pixels_do_not_have_their_checksum(tmp_path):
    path = saved(tmp_path, Image.new("L", (3, 2), 10))
    content = path.read_bytes()
    start = content.index(b"IDAT") + 4
    size = int.from_bytes(content[start - 8 : start - 4])
    other = zlib.compress(b"\0" + bytes(3) + b"\0" + bytes(3))
    path.write_bytes(content[: start - 8] + len(other).to_bytes(4) + b"IDAT" + other + content[start + size :])
    with pytest.raises(DataError, match="checksum"):
        read_image(path, channels=1)


def test_damaged_exif_data_do_not_matter(tmp_path):
    data = io.BytesIO()
    Image.fromarray(COLOUR).save(data, "jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff\xff\xff")
    path = tmp_path / "a.jpg"
    path.write_bytes(data.getvalue())
    assert read_image(path, 3).shape == (6, 9, 3)


def test_the_largest_box_is_not_the_one_farthest_right(tmp_path):
    boxes = ((0, 0, 9, 4), (50, 0, 52, 10))
    assert read_box(write_voc_boxes(tmp_path / "a.xml", *boxes)) == boxes[0]


def test_a_program_is_never_started_for_an_image(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: pytest.fail("a program was started"))
    path = tmp_path / "cat.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    assert "not in an image format that is read" in error_of(path)


@pytest.mark.parametrize("read", [lambda path: read_image(path, 3), read_box])
def test_a_named_pipe_does_not_hang(tmp_path, read):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="not a regular file"):
        read(tmp_path / "a.png")


def test_an_image_of_too_many_pixels_is_refused_and_a_jpeg_halved(tmp_path, monkeypatch):
    small, large = (write_image(tmp_path / name, (40, 30)) for name in ("a.png", "b.jpg"))
    monkeypatch.setattr("encapkeras.data.image_files.LARGEST", 1000)
    assert "it has 40 x 30 pixels; from 1 to 1,000 are read. Save it smaller" in error_of(small)
    assert read_image(large, 3).shape == (15, 20, 3)
    assert "from 1 to 1,000 are read" in error_of(large, box=(0, 0, 9, 9))  # its pixels would no longer be those


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_a_large_image_is_converted_in_parts(tmp_path, monkeypatch, mode):
    if mode == "I;16":
        image = Image.fromarray(random_images(1, 6, 9)[0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(COLOUR).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, image, "a.tif" if mode == "CMYK" else "a.png", exif=exif)
    whole = [read_image(path, channels) for channels in (1, 3)]
    monkeypatch.setattr("encapkeras.data.image_files.AT_ONCE", 13)
    assert all(np.array_equal(read_image(path, pixels.shape[2]), pixels) for pixels in whole)


@pytest.mark.parametrize("side", ["1e400", "inf", "-inf", "nan", ""])
def test_the_sides_of_a_box_are_finite_numbers(tmp_path, side):
    path = write_voc_boxes(tmp_path / "a.xml", (1, 2, 4, 5))
    path.write_text(path.read_text().replace("<xmax>4<", f"<xmax>{side}<"))
    with pytest.raises(DataError, match=r"cannot be read as the boxes of an image: .* must be finite numbers"):
        read_box(path)


def test_a_file_of_boxes_that_grows_without_end(tmp_path):
    names = "abcdefghij"
    entities = "".join(f"<!ENTITY {new} '{f'&{old};' * 20}'>" for old, new in itertools.pairwise(names))
    path = tmp_path / "a.xml"
    path.write_text(f"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>{entities}]><annotation>&j;</annotation>")
    with pytest.raises(DataError, match="cannot be read as the boxes of an image"):
        read_box(path)
    path.write_text(f"<annotation>{' ' * 2**20}</annotation>")
    with pytest.raises(DataError, match="it has more than 1,048,576 bytes"):
        read_box(path)


def test_the_library_for_tiff_prints_nothing_about_damage(tmp_path, capfd):
    path = saved(tmp_path, Image.fromarray(COLOUR), "a.tif", compression="tiff_adobe_deflate")
    data = bytearray(path.read_bytes())
    data[16:24] = bytes(8)
    path.write_bytes(data)
    assert "cannot be read as an image" in error_of(path)
    assert capfd.readouterr().err == ""


def stderr_in_child():
    """Which file stderr is in a process forked now."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there are threads
        child = os.fork()
    if not child:
        os.write(writer, str(os.fstat(2).st_ino).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as file:
        return int(file.read())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked")
def test_stderr_is_there_after_threads_have_read_tiff_files(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(COLOUR), "a.tif", compression="tiff_lzw")
    before, both, first_done = os.fstat(2).st_ino, threading.Barrier(2), threading.Event()
    pixels, inside = image_files._pixels, []

    def slowly(*arguments):
        both.wait(60)  # both have closed it
        inside.append(os.fstat(2).st_ino)
        if threading.current_thread() is not one:
            first_done.wait(60)  # and one is ready before the other
        return pixels(*arguments)

    monkeypatch.setattr(image_files, "_pixels", slowly)
    one, other = (threading.Thread(target=read_image, args=(path, 3)) for _ in range(2))
    one.start()
    other.start()
    one.join(60)
    assert stderr_in_child() == before  # as a data loader's process
    assert before not in [*inside, os.fstat(2).st_ino]
    first_done.set()
    other.join(60)
    assert os.fstat(2).st_ino == before
