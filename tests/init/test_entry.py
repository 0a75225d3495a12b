"""What `qntz init` makes of the options that describe a model, and which of them it refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from qntz.cli import main
from qntz.scaffold.model import entry
from tests.init.conftest import tree

IMAGE = ("--input", "image=float32:batch,3,32,32")
WIDTH = ("--arg", "width=16")


def test_inputs_stand_in_the_order_of_forward_and_integers_have_a_range(theirs: Path) -> None:
    inputs = ["mask=int64:batch,length:0,1", "rows=float16:batch,length,8"]
    made = entry(theirs, "mypkg.net.TwoInputs", inputs=inputs, dims=["length=4,12,16"])
    assert made.name == "two_inputs"
    conf = yaml.safe_load(made.conf)
    assert list(conf["inputs"]) == ["rows", "mask"]
    assert conf["inputs"]["mask"] == {"dtype": "int64", "shape": ["batch", "length"], "range": [0, 1]}
    assert conf["dims"] == {"batch": {"min": 1, "opt": 8, "max": 64}, "length": {"min": 4, "opt": 12, "max": 16}}
    assert "weights" not in conf
    assert made.conf.splitlines()[2].startswith("# weights: ")
    assert made.deps == ()


def test_a_function_and_what_takes_anything(theirs: Path) -> None:
    assert entry(theirs, "mypkg.net:tiny", inputs=["x=float32:1,3,8,8"]).name == "tiny"
    anything = entry(theirs, "mypkg.net:Open", inputs=["b=float32:n,2", "a=float32:n,2"])
    assert list(yaml.safe_load(anything.conf)["inputs"]) == ["b", "a"]


def test_a_file_stands_for_its_module(theirs: Path) -> None:
    for given in ("mypkg/net.py:tiny", "./mypkg/net.py:tiny", f"{theirs}/mypkg/../mypkg/net.py:tiny"):
        made = entry(theirs, given, inputs=["x=float32:1,3,8,8"])
        assert yaml.safe_load(made.conf)["factory"] == {"_target_": "mypkg.net.tiny"}, given


def test_a_saved_model_needs_no_class(theirs: Path) -> None:
    (theirs / "net.pt2").write_bytes(b"")
    made = entry(theirs, "net.pt2", inputs=["x=float32:4,2"])
    conf = yaml.safe_load(made.conf)
    assert (conf["program"], conf["inputs"]) == ("net.pt2", {"x": {"dtype": "float32", "shape": [4, 2]}})
    assert "dims" not in conf
    assert (made.name, made.deps) == ("net", ("net.pt2",))
    assert "trusted" not in conf
    digest = hashlib.sha256(b"").hexdigest()
    assert f"program: net.pt2\n# trusted: {digest}  # only if you trust who made it\n" in made.conf


def test_a_saved_model_that_dvc_will_fetch(theirs: Path) -> None:
    (theirs / "net.ts.dvc").write_text("outs: []\n")
    lines = entry(theirs, "net.ts", inputs=["x=float32:4,2"]).conf.splitlines()
    assert lines[2] == "# trusted: 0123...  # the 64 digits that sha256sum prints of it; only if you trust who made it"


def test_weights_that_dvc_will_fetch(theirs: Path) -> None:
    (theirs / "mypkg/large.pt.dvc").write_text("outs: []\n")
    made = entry(theirs, "mypkg.net:tiny", inputs=["x=float32:4,2"], weights="mypkg/large.pt")
    assert yaml.safe_load(made.conf)["weights"] == "mypkg/large.pt"


def test_words_that_yaml_reads_otherwise_stay_words(theirs: Path) -> None:
    made = entry(theirs, "mypkg.net:Open", name="on", inputs=["on=float32:no,2"], arguments=["mode='off'", "rate=0.5"])
    conf = yaml.safe_load(made.conf)
    assert conf["inputs"] == {"on": {"dtype": "float32", "shape": ["no", 2]}}
    assert conf["factory"] == {"_target_": "mypkg.net.Open", "mode": "off", "rate": 0.5}
    assert list(conf["dims"]) == ["no"]


REFUSED = [
    (("--name", "net"), "--name belongs to a model. Name it: --model pkg.module:Class."),
    (("--model", "mypkg"), "--model: 'mypkg' names no class. Write pkg.module:Class."),
    (("--model", "mypkg net:A"), "--model: 'mypkg net:A' names no class. Write pkg.module:Class."),
    (("--model", "mypgk.net:TinyNet"), "--model: no module 'mypgk'. Did you mean 'mypkg'?"),
    (("--model", "mypkg.nett:TinyNet"), "--model: no module 'mypkg.nett'. Did you mean 'net'?"),
    (("--model", "mypkg.net.TinyNet.forward"), "--model: no module 'mypkg.net.TinyNet'. None is known."),
    (("--model", "mypkg.net:TinyNett"), "mypkg/net.py: no 'TinyNett'. Did you mean 'TinyNet'?"),
    (("--model", "broken:Net"), "broken.py:1: is no Python: SyntaxError: "),
    (
        ("--model", "hidden.net:Net"),
        "--model: no module 'hidden': it lies in src/, where Python does not look. Install",
    ),
    (("--model", "src/hidden/net.py:Net"), "--model: no module 'hidden': it lies in src/, where Python does not look."),
    (("--model", "mypkg/nett.py:Net"), "--model mypkg/nett.py: no such file."),
    (("--model", "mypkg.net:TinyNet"), "mypkg/net.py: TinyNet: wants width. Give --arg width=VALUE."),
    (
        ("--model", "mypkg.net:TinyNet", *WIDTH),
        "mypkg/net.py: TinyNet.forward: takes image. Tell dtype and shape: --input image=float32:batch,3,224,224, for",
    ),
    (("--model", "mypkg.net:TinyNet", "--arg", "widht=1", *IMAGE), "takes no 'widht'. Did you mean 'width'?"),
    (
        ("--model", "mypkg.net:TinyNet", "--arg", "width", *IMAGE),
        "--arg: 'width' is no NAME=VALUE. Write --arg width=32.",
    ),
    (("--model", "mypkg.net:TinyNet", "--arg", "width=[", *IMAGE), "--arg: '[' is no value of YAML. Put it in quotes."),
    (("--model", "mypkg.net:TinyNet", *WIDTH, "--input", "x=float32:1"), "forward: has no 'x'. Known: image."),
    (("--model", "mypkg.net:TinyNet", *WIDTH, *IMAGE, *IMAGE), "--input image: is given twice."),
    (("--model", "mypkg.net:TinyNet", *WIDTH, "--input", "image=float32"), "'image=float32' has no dtype and shape."),
    (("--model", "mypkg.net:TinyNet", *WIDTH, "--input", "image=float32:3,-a"), "--input: '-a' is no size."),
    (
        ("--model", "mypkg.net:TinyNet", *WIDTH, "--input", "image=float32:0,3"),
        "--input image.shape: 0 is no dimension.",
    ),
    (
        ("--model", "mypkg.net:TinyNet", *WIDTH, "--input", "image=float33:1"),
        "--input image.dtype: unknown value 'float33'.",
    ),
    (
        ("--model", "mypkg.net:TinyNet", *WIDTH, "--input", "image=int64:1"),
        "--input image.range: an input of int64 needs",
    ),
    (("--model", "mypkg.net:TinyNet", *WIDTH, "--input", "image=int64:1:9"), "--input image: '9' are not 2 numbers."),
    (
        ("--model", "mypkg.net:TwoInputs", "--input", "rows=float32:1,2"),
        "TwoInputs.forward: takes mask as well. Give an",
    ),
    (("--model", "mypkg.net:TinyNet", *WIDTH, *IMAGE, "--dim", "bacth=1,2,3"), "has a dimension 'bacth'. Did you mean"),
    (("--model", "mypkg.net:TinyNet", *WIDTH, *IMAGE, "--dim", "batch=8"), "--dim batch: '8' are not 3 numbers."),
    (
        ("--model", "mypkg.net:TinyNet", *WIDTH, *IMAGE, "--dim", "batch=8,4,2"),
        "--dim batch: min 8, opt 4, max 2 are out of order.",
    ),
    (("--model", "mypkg.net:TinyNet", *WIDTH, *IMAGE, "--weights", "no.pt"), "--weights no.pt: no such file."),
    (("--model", "mypkg.net:TinyNet", *WIDTH, *IMAGE, "--weights", "mypkg"), "--weights mypkg: is a folder."),
    (
        ("--model", "mypkg.net:TinyNet", *WIDTH, *IMAGE, "--weights", "../w.pt"),
        "../w.pt: lies outside of the project: ",
    ),
    (
        ("--model", "mypkg/tiny.safetensors"),
        "--model mypkg/tiny.safetensors: is a file of weights. Name the class, and",
    ),
    (("--model", "net.ts"), "--model net.ts: no such file."),
    (("--model", "net.ts", *WIDTH), "--model net.ts: --arg does not go with a saved model. Leave it out."),
    (("--model", "mypkg.net:TinyNet", "--name", "1st", *WIDTH, *IMAGE), "--name: '1st' is no name. Names start with a"),
    (
        ("--model", "mypkg.net:Open", "--arg", "_target_=os.system", *IMAGE),
        "--arg: '_target_' is no argument: names that",
    ),
    (
        ("--model", "kw:Any", "--arg", "a=1", "--arg", "_partial_=true", *IMAGE),
        "--arg: '_partial_' is no argument: names",
    ),
    (("--model", "mypkg.net:TinyNet", "--update"), "--model does not go with --update. Write conf/model/NAME.yaml"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refusals(theirs: Path, capsys, options: tuple[str, ...], message: str) -> None:
    (theirs / "src/hidden").mkdir(parents=True)
    (theirs / "src/hidden/net.py").write_text("class Net: ...\n")
    (theirs / "broken.py").write_text("class Net(:\n")
    (theirs / "kw.py").write_text("class Any:\n    def __init__(self, **kw): ...\n    def forward(self, image): ...\n")
    before = tree(theirs)
    assert main(["init", *options]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert tree(theirs) == before
