"""Boards at the end of a bad link: 200 ms there and back, one packet of a hundred lost; and a link that goes dead."""

import json
import subprocess
import sys

import pytest

from tests.support import modules
from tests.support.agents import Agent, needs_root
from tests.support.far_link import FarLink

VERB = "from tvm_mobilenet.boards import wire; wire.DEAD_SECONDS = {}; from tvm_mobilenet import {} as verb; "
DEAD_SECONDS = 9  # in place of 45, on both sides


pytestmark = needs_root


@pytest.fixture
def link():
    with FarLink(delay=0.1, loss=0.01) as made:
        yield made


@pytest.fixture
def agent(link):
    code = VERB.format(DEAD_SECONDS, "agent") + "verb.main()"
    with Agent("--host", link.address, "--trust-network", module=("-c", code), prefix=link.inside(link.there)) as found:
        yield found


# A client that says when it waits between two rows.
SAYS = "import sys, time; real = time.sleep; time.sleep = lambda s: (print('waits', s, file=sys.stderr), real(s)); "


def command(link, agent, verb: str, *arguments, dead=45):
    code = SAYS + VERB.format(dead, verb) + "import sys; sys.exit(verb.main())"
    return [*link.inside(link.here), sys.executable, "-c", code, *map(str, arguments), "--board", agent.url]


@pytest.mark.full
def test_bench_and_verify_over_a_slow_link_that_loses_packets(link, agent):
    done = subprocess.run(
        command(link, agent, "bench", modules.small(), "--seconds", "0.2", "--json"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["upload"]["seconds"] > 0.2 > found["rows"][0]["time"]["min"], "the link is no part of what is measured"
    done = subprocess.run(
        command(link, agent, "verify", modules.tiny(), "--inputs", "1", "--json"), capture_output=True, text=True
    )
    assert done.returncode == 0 and json.loads(done.stdout)["ok"], done.stderr
    assert link.counts()["lost"] >= 5, "nothing was lost: this was no bad link"
    assert agent.is_clean()


@pytest.mark.parametrize(
    "when, asking, options",
    [
        ("waits 8", "state", ["--threads", "1,2", "--no-layers", "--seconds", "0.1", "--cool-down", "8"]),
        ("measuring", "measure", ["--seconds", "600"]),
    ],
    ids=["between two runs", "during a run"],
)
@pytest.mark.full
def test_a_link_that_goes_dead(link, agent, when, asking, options):
    client = subprocess.Popen(
        command(link, agent, "bench", modules.tiny(), *options, dead=DEAD_SECONDS),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = [""]
    while when not in lines[-1]:
        lines.append(client.stderr.readline())
        assert lines[-1], lines
    assert agent.children()
    link.cut()
    out, err = client.communicate(timeout=1200)
    assert client.returncode == 4 and not out, err
    assert f"the connection was lost while asking for {asking}" in err and "does the server there still run?" in err
    assert agent.is_clean(), "the session of a client that is gone goes on"
