"""Refuse flags that would have no effect in a command.

Some flags need another (``--rank`` needs ``--output``); some apply to one kind of model or board. A flag that changes
nothing shows a misunderstanding, so it is refused, never ignored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from tvm_mobilenet import dtypes
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.options import FLOAT32, IMAGENET, IO, RANDOM


def refuse(args: argparse.Namespace, flags: Iterable[str], why: str, hint: str) -> None:
    """Refuse flags that would have no effect.

    Parameters
    ----------
    args : Namespace
        The result of a parser of `cli.arguments`, which has ``given``.
    flags : iterable of str
        Flags such as ``--rank``; those that the user did not give are ignored.
    why : str
        The reason, which follows the flag in the message.
    hint : str
        The remedy.

    Raises
    ------
    TvmMobilenetError
        At least one of them was given; the message names all given ones.
    """
    given = [flag for flag in flags if flag in args.given]
    if given:
        raise TvmMobilenetError(f"{', '.join(given)}: {why}", hint)


def refuse_for_predictions(args: argparse.Namespace, flags: Iterable[str]) -> None:
    """Refuse flags that say how to measure, where the virtual board predicts.

    Raises
    ------
    TvmMobilenetError
        One of them was given.
    """
    refuse(
        args,
        flags,
        "the virtual board predicts and measures nothing",
        "leave it out, or measure on a board: --board local, rpc://…, ssh://…",
    )


def refuse_for_model(args: argparse.Namespace, model) -> None:
    """Refuse flags of the model's group that do not apply to its kind.

    Parameters
    ----------
    model : options.ModelOptions

    Raises
    ------
    TvmMobilenetError
        A file got a flag of the registry's networks, or another flag leaves one without effect.
    """
    refuse_trust(args, model)
    if model.signature and model.file_kind != "tflite":
        refuse(args, ("--signature",), "only a .tflite file can hold several networks", "leave it out")
    if model.dtype not in IO[model.io]:
        why = f"{model.io} inputs and outputs need layers in {' or '.join(IO[model.io])}, not in {model.dtype}"
        refuse(args, ("--io",), why, f"leave it out, or add --dtype {IO[model.io][0]}")
    if model.dtype == FLOAT32:
        why = "layers in float32 have no use for it"
        quantized = "; for a file that comes quantized leave it out" * model.is_file
        refuse(args, ("--calibrate",), why, f"add --dtype float16 or int8{quantized or ', or leave it out'}")
        refuse(args, ("--accumulate",), why, f"add --dtype float16{quantized or ', or leave it out'}")
    if not dtypes.of(model.dtype).integer:
        refuse(
            args,
            ("--keep-float", "--calibration-method", "--quantization"),
            "only networks in int8 have it",
            "leave it out, or add --dtype int8, also to a file that comes quantized",
        )
    else:
        if model.quantization is not None:
            found = ("--calibrate", "--calibration-method")
            refuse(args, found, "--quantization gives all scales, so none are calibrated", "leave out one of the two")
        refuse(args, ("--accumulate",), "integers are summed in int32", "leave it out")
    if not model.in_registry and refuse_for_foreign(args, model):
        return
    if model.is_file:
        refuse(
            args,
            ("--alpha", "--classes", "--weights", "--seed", "--features"),
            f"{model.module or model.model} is a whole network: its layers and weights are in the file",
            "leave it out; these flags are for networks by name, such as --model v2",
        )
        return
    if str(model.weights) == RANDOM:
        why = "networks of the registry have seeded weights where none are given"
        refuse(args, ("--weights",), why, "leave it out")
    if model.weights is not None:
        refuse(
            args,
            ("--seed",),
            "it seeds random weights, so it has no effect beside --weights",
            "leave out one of the two",
        )
    if model.features:
        refuse(
            args,
            ("--classes",),
            "--features leaves out the classifier, so there are no classes",
            "leave out --features, or this",
        )


def refuse_for_foreign(args: argparse.Namespace, model) -> bool:
    """Refuse flags that do not apply to a package's or a program's network; return whether the model is such a network.

    Raises
    ------
    TvmMobilenetError
        One was given.
    """
    if model.package:
        why = f"{model.package} fixes {model.model}'s architecture"
        refuse(args, ("--alpha", "--features"), why, "leave it out; it is for networks of the registry")
        if model.weights is None:
            why = f"{model.model} has weights of its own, trained for its own classes"
            refuse(args, ("--classes",), why, "leave it out, or add --weights FILE or random")
        if str(model.weights) != RANDOM:
            refuse(args, ("--seed",), f"{model.model} has trained weights", "leave it out, or add --weights random")
        if str(model.weights) == IMAGENET:
            why = f"{model.model} has these weights already"
            refuse(args, ("--weights",), why, "leave it out, or give FILE or random")
        return True
    if model.program:
        why = f"the program makes the whole network of {model.model}"
        refuse(args, ("--alpha", "--classes", "--features"), why, "leave it out, or change the program")
        refuse(args, ("--trust-file",), f"--model {model.model} names a program to run", "leave it out")
        if model.weights is not None and model.checkpoint is None:
            refuse(args, ("--weights",), f"{model.model} takes weights from a file only", "give --weights FILE")
        return True
    return False


def refuse_trust(args: argparse.Namespace, model) -> None:
    """Refuse ``--trust-file`` unless the model is a ``.pt2`` file or the build of a program's model.

    Raises
    ------
    TvmMobilenetError
        It was given.
    """
    if model.program:
        return  # a build of a program's model says so itself
    if model.trust_file and model.file_kind != "pt2":
        refuse(args, ("--trust-file",), "only a .pt2 file can hold a program that PyTorch runs", "leave it out")


def refuse_for_sweep(args: argparse.Namespace) -> None:
    """Refuse flags that others make pointless.

    Raises
    ------
    TvmMobilenetError
        ``--theory`` with flags of the table or of a budget, ``--cores`` or ``--output`` without a budget.
    """
    limits = ("--budget", "--memory", "--min-accuracy")
    if args.theory:
        why = "--theory compares the papers' own networks on three cores"
        table = ("--families", "--alphas", "--resolutions", "--dtype", "--target", "--csv")
        table += ("--board", "--trust-network")
        refuse(args, () if args.html else table, why, "leave it out, or add --html FILE: a page with both")
        refuse(args, (*limits, "--cores", "--output"), why, "leave it out: a budget needs a sweep of its own")
    if not args.given.intersection(limits):
        refuse(
            args,
            ("--cores", "--output"),
            f"it needs {' or '.join(limits)}, which chooses a network",
            f"add {limits[0]}",
        )


def refuse_for_bench(args: argparse.Namespace) -> None:
    """Refuse flags that others make pointless.

    Raises
    ------
    TvmMobilenetError
        ``--max-regress`` came without ``--compare``, or a flag of an ordinary benchmark beside ``--check-timing``.
    """
    if args.check_timing:
        others = ["--compare", "--max-regress", "--against", "--record", "--html", "--csv", "--markdown"]
        others += ["--no-layers", "--cool-down", "--cpus", "--runtime"]
        others += ["--threads"] if len(args.threads) > 1 else []
        refuse(args, others, "--check-timing only compares two ways of timing one row", "leave out one of the two")
    if not args.compare:
        refuse(args, ("--max-regress",), "it says how much slower than --compare FILE", "add --compare FILE")
