"""``python3 mobilenet.py``: classes of images, and frames a second, for ``mobilenet.py`` beside this file."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

import numpy as np

ABOUT = "Classes of each image; or with `bench` how many frames a second. selftest and info are of `mobilenet`."
SEEDED = "weights are seeded random numbers: classes mean nothing; build with --weights FILE"
LARGEST = (65535, 65535)  # largest side; the number of pixels has a separate limit


def main(interface, argv: list[str]) -> None:
    """Run the program with the names of ``mobilenet.py``; an error ends the process."""
    if sys.stdout is None:
        sys.exit("error: the output cannot be written: stdout is closed")
    try:
        options = _parsed(argv)
        with interface.Mobilenet(threads=options.threads, max_size=LARGEST) as net:
            _print(_bench(net, options) if options.verb == "bench" else _classes(interface, net, options), options.json)
        sys.stdout.flush()
    except interface.MobilenetError as e:
        sys.exit(f"error: {e}")
    except BrokenPipeError:  # the reader closed stdout, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as e:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(f"error: the output cannot be written: {e.strerror}")


def _parsed(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="python3 mobilenet.py", description=ABOUT, usage="%(prog)s [bench] IMAGE ...")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="what Pillow reads, or .npy: pictures or inputs")
    parser.add_argument("--top", type=_count, default=5, metavar="N", help="how many classes of each (5)")
    parser.add_argument("--threads", type=_count, default=0, metavar="N", help="one for each CPU by default")
    parser.add_argument("--seconds", type=_seconds, default=2.0, metavar="S", help="for how long bench measures (2)")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version that made the bundle, and stop")
    parser.add_argument("--json", action="store_true", help="one JSON document; of several images an array")
    verb = argv[0] if argv[:1] in (["bench"], ["classify"]) and len(argv) > 1 and not Path(argv[0]).exists() else ""
    options = parser.parse_args(argv[1:] if verb else argv)
    options.verb = verb or "classify"
    return options


class _Parser(argparse.ArgumentParser):
    def print_help(self, file=None):
        print(self.format_help(), end="", flush=True)  # argparse keeps silent where it cannot be written


class _Version(argparse.Action):
    def __call__(self, parser, *_):
        manifest = Path(sys.argv[0]).resolve().with_name("manifest.json")
        try:
            text = manifest.read_text(encoding="utf-8") if manifest.is_file() else ""  # a pipe would be waited for
            version = json.loads(text)["versions"]["tvm-mobilenet"]
        except (OSError, ValueError, KeyError, TypeError):
            parser.exit(1, f"error: {manifest.parent} holds no whole bundle\n")
        print(f"tvm_mobilenet {version}", flush=True)
        parser.exit()


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000000")
    return number


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < 1e6:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")


def _print(told, as_json: bool) -> None:
    """Print documents one after the other, or as one JSON document."""
    documents = []
    for document, lines in told:
        documents.append(document)
        if not as_json:
            print(*lines, sep="\n")
    if as_json:
        print(json.dumps(documents[0] if len(documents) == 1 else documents))


def _about(net) -> dict:
    return {"model": net.model, "target": net.target, "build": net.build, "threads": net.threads}


def _bench(net, options):
    found = net.measure(options.images, options.seconds)
    line = "{frames_per_second:.1f} frames a second, {milliseconds:.2f} ms each (median of {frames})".format(**found)
    line += f" with {net.threads} threads: resized, cropped and run"
    yield {**_about(net), "files": options.images, **found}, [line]


def _classes(interface, net, options):
    for path in options.images:
        try:
            scores = _scores(interface, net, path)
        except interface.MobilenetError as e:
            raise interface.MobilenetError(f"{path}: {e}", e.code) if path not in str(e) else e from None
        if net.seeded and path == options.images[0]:
            print(f"note: {SEEDED}", file=sys.stderr)
        for number, row in enumerate(scores):
            file = path if len(scores) == 1 else f"{path}[{number}]"
            best = net.top(row, options.top)
            lines = [f"{file}:"] if len(options.images) > 1 or len(scores) > 1 else []
            classes = [_document(b) for b in best]
            document = {**_about(net), "file": file, "seeded": net.seeded, "scores": net.scores, "classes": classes}
            yield document, lines + [_line(net, b) for b in best]


def _scores(interface, net, path: str) -> np.ndarray:
    """A row of scores for each image of a file; a ``.npy`` may also hold inputs of the model's dtype."""
    files = interface._beside("mobilenet_pictures")
    if len(net.inputs) != 1 or not interface._read(files.is_array, Path(path)):
        return net.run_image(path)[:1]
    array = net.read(path)
    _, shape, dtype = net.inputs[0]
    if array.dtype.newbyteorder("=") == dtype:
        if array.shape == shape[1:]:
            array = array[None]
        if array.shape == shape or (array.shape[1:] == shape[1:] and shape[0] == 1 and len(array)):
            return net.run(array)[0]
    return net.run_image(array)[:1] if array.ndim != 4 else net.run_images(array)


def _document(best) -> dict:
    told = {"class": best.index, "label": best.label or None}
    return {**told, "score": best.score, "probability": best.probability}


def _line(net, best) -> str:
    known = "" if best.probability is None else f"{100 * best.probability:6.2f} %  "
    kind = "output" if net.classes == 1 else "class"
    return f"{best.score:9.4f}  {known}{kind} {best.index}{best.label and f'  {best.label}'}"
