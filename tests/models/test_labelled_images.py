"""Data sets as they lie on disk: every layout is read to the classes that its owner means, or refused in words."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.class_words import ClassWords
from tvm_mobilenet.models.labelled_images import read

THREE = ClassWords(3, ("tench", "great white shark", "jay"))
IMAGENET, BACKGROUND = ClassWords(1000), ClassWords(1001)
# The first lines of ILSVRC2012_validation_ground_truth.txt, and the classes that Caffe's val.txt gives these images.
ILSVRC = (490, 361, 171, 822, 297, 482, 13, 704, 599, 164)
CAFFE = (65, 970, 230, 809, 516, 57, 334, 415, 674, 332)


def images(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / name)
    return folder


def labels(found) -> dict[str, int]:
    return {image.name: image.label for image in found.images}


def test_folders_are_named_by_class(tmp_path):
    names = images(tmp_path / "names", "great_white_shark/a.jpg", "tench/b.PNG", "jay/deep/c.jpeg", "jay/.hidden.jpg")
    assert labels(read(names, THREE)) == {"great_white_shark/a.jpg": 1, "jay/deep/c.jpeg": 2, "tench/b.PNG": 0}
    numbers = images(tmp_path / "numbers", "0/a.jpg", "002/b.jpg", "1/c.jpg")
    assert labels(read(numbers, THREE)) == {"0/a.jpg": 0, "002/b.jpg": 2, "1/c.jpg": 1}
    synsets = images(tmp_path / "synsets", "n01440764/a.JPEG", "n15075141/b.JPEG")
    found = read(synsets, IMAGENET)
    assert labels(found) == {"n01440764/a.JPEG": 0, "n15075141/b.JPEG": 999} and "synsets" in found.how
    assert set(labels(read(synsets, BACKGROUND)).values()) == {1, 1000}, "TensorFlow's networks have background first"
    ordered = images(tmp_path / "ordered", "x/a.jpg", "y/b.jpg", "z/c.jpg")
    found = read(ordered, ClassWords(3))
    assert labels(found) == {"x/a.jpg": 0, "y/b.jpg": 1, "z/c.jpg": 2} and "ImageFolder" in found.how


def test_imagenets_validation_images_with_their_ground_truth(tmp_path):
    names = [f"ILSVRC2012_val_{i + 1:08}.JPEG" for i in range(10)]
    folder, caffe = images(tmp_path / "val", *names), dict(zip(names, CAFFE, strict=True))
    truth = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("".join(f"{n}\n" for n in ILSVRC))
    assert labels(read(folder, IMAGENET, truth)) == caffe
    assert labels(read(folder, BACKGROUND, truth)) == {name: label + 1 for name, label in caffe.items()}
    (tmp_path / "val.txt").write_text("".join(f"{name} {label}\n" for name, label in reversed(caffe.items())))
    assert labels(read(folder, IMAGENET, tmp_path / "val.txt")) == caffe
    kaggle = tmp_path / "LOC_val_solution.csv"
    kaggle.write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n01751748 1 2 3 4 n01751748 5 6 7 8\n")
    assert list(labels(read(folder, IMAGENET, kaggle)).values()) == [65]
    inside = folder / "synset_labels.txt"
    inside.write_text("n01751748\n" * 10)
    assert set(labels(read(folder, IMAGENET)).values()) == {65}, "the one text beside the images is their ground truth"
    with pytest.raises(TvmMobilenetError, match=r"9 labels, .* 10 images"):
        inside.write_text("n01751748\n" * 9)
        read(folder, IMAGENET)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.jpg,tench\nsub/b.jpg,jay\n",
        "\ufefflabel;split;filename\r\nTENCH;val;a.jpg\r\njay;val;sub/b.jpg\r\n",
        "a.jpg\t0\nsub/b.jpg\t2\n",
        'a.jpg,"tench"\nsub/b.jpg,jay',
    ],
)
def test_a_csv_in_any_of_its_dialects(text, tmp_path):
    folder = images(tmp_path, "a.jpg", "sub/b.jpg")
    (folder / "list.csv").write_text(text)
    assert labels(read(folder / "list.csv", THREE)) == labels(read(folder, THREE)) == {"a.jpg": 0, "sub/b.jpg": 2}


def test_a_list_without_commas_may_have_blanks_in_both(tmp_path):
    folder = images(tmp_path, "my photo.jpg")
    (folder / "list.txt").write_text("my photo.jpg great white shark\n")
    assert labels(read(folder, THREE)) == {"my photo.jpg": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: None, "no image is in it"),
        (lambda d: (d / "a").mkdir(), "no image is in it or in its 1 folders"),
        (lambda d: images(d, "a.jpg", "b.jpg"), "2 images, but no file that tells their classes"),
        (lambda d: images(d, "tench/a.jpg", "pike/b.jpg"), "1 labels are class names, but not 'pike'"),
        (lambda d: images(d, "carp/a.jpg", "pike/b.jpg"), "'carp', 'pike': no class of the network, which has 3"),
        (lambda d: images(d, "0/a.jpg", "3/b.jpg"), "1 labels are class numbers, but not '3'"),
        (lambda d: images(d, "n01440764/a.jpg"), "'n01440764': no class of the network"),
        (lambda d: images(d, "val/x/a.jpg", "train/x/a.jpg"), "holds parts of a data set: train, val"),
        (lambda d: (d / "l.csv").write_text("a.jpg,tench\n"), "l.csv names 1 images that are not in"),
        (lambda d: (d / "l.csv").write_text("../a.jpg,tench\n"), "../a.jpg leads out of"),
        (lambda d: (d / "l.csv").write_text("/etc/passwd,tench\n"), "/etc/passwd leads out of"),
        (lambda d: (d / "l.csv").write_text(""), "names no classes: it is empty"),
        (lambda d: (d / "l.csv").write_bytes(b"\xff\xfe\x00"), "names no classes: it is not text"),
        (lambda d: (d / "l.csv").write_text("a.jpg,tench\nb.jpg\n"), "'b.jpg' has no label"),
        (lambda d: [(d / n).write_text("0\n") for n in ("a.txt", "b.txt")], "several files could tell the classes"),
    ],
)
def test_what_is_no_data_set_is_told_in_words(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises(TvmMobilenetError) as error:
        read(tmp_path, THREE)
    assert message in error.value.message and error.value.hint
    assert str(tmp_path) in error.value.message


def test_an_ambiguous_name_is_no_class():
    words = ClassWords(3, ("crane", "Crane", "jay"))
    assert words.read(["jay"], "here")[0] == {"jay": 2}
    with pytest.raises(TvmMobilenetError, match="'crane'"):
        words.read(["crane"], "here")


def test_a_part_of_a_data_set_is_evenly_spread(tmp_path):
    folder = images(tmp_path, *(f"{c}/{i}.png" for c in range(3) for i in range(4)))
    found = read(folder, THREE)
    part = found.limited(3)
    assert [image.label for image in part.images] == [0, 1, 2] and part.whole == 12
    assert found.limited(99) is found and found.limited(None) is found


def test_what_is_no_image_is_found_before_the_first_runs(tmp_path):
    folder = images(tmp_path, "0/a.jpg", "1/b.jpg")
    for name in ("bad", "worse"):
        (folder / "2").mkdir(exist_ok=True)
        (folder / "2" / f"{name}.jpg").write_text("no image")
    found = read(folder, THREE)
    with pytest.raises(TvmMobilenetError, match=r"bad\.jpg cannot be read as an image.*; 1 more cannot either"):
        found.check()
    shutil.rmtree(folder / "2")
    read(folder, THREE).check()
