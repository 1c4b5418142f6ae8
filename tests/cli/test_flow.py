"""``retrograde flow``: of runs of every task, and of bare checkpoints."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY
from torch import nn

import retrograde as rg
from retrograde.report.run import read
from retrograde.report.sections import signal

FAST = ["--hidden-size", "8", "--max-steps", "2", "--threads", "1", "--quiet", "--no-report"]


FEW = [*TINY, "--max-steps", 3, "--cell", "gru", "--num-layers", 2]


@pytest.fixture
def run(book, trained):
    """A language run of a few steps."""
    return trained(book, *FEW)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    model = nn.ModuleDict({"encoder": nn.LSTM(3, 5, bidirectional=True), "decoder": nn.RNN(2, 4)})
    save_file(model.state_dict(), path)
    return path


def test_of_a_run(run, retrograde):
    done = retrograde("flow", run)
    assert done.code == 0 and done.err == ""
    for part in ("task language", "held out of", "lag", "growth", "half-life", "horizon", "l0: the gradient"):
        assert part in " ".join(done.out.split())
    assert any(block in done.out for block in "▁▂▃▄▅▆▇█")
    assert max(map(len, done.out.splitlines())) <= 80


def test_json_is_what_gradient_flow_measures(run, text, retrograde):
    done = retrograde("flow", run, text, "--json", "--steps", 12, "--sequences", 3, "--fraction", 0.1)
    found = json.loads(done.out)
    loaded = rg.training.load(run)
    tokens = torch.from_numpy(loaded.vocabulary.encode(text.read_text())).long()
    starts = torch.linspace(0, len(tokens) - 13, 3).long()
    windows = torch.stack([tokens[start : start + 13] for start in starts], dim=1)

    def loss(output):
        return nn.functional.cross_entropy(output[0].transpose(1, 2), windows[1:], reduction="none")

    flow = rg.gradient_flow(loaded.model, windows[:-1], loss=loss)
    assert [layer["layer"] for layer in found["layers"]] == ["l0", "l1"]
    assert np.allclose([layer["by_lag"] for layer in found["layers"]], flow.by_lag(), rtol=1e-5)
    expected = [None if np.isnan(h) else h for h in flow.horizon(0.1)]
    assert [layer["horizon"] for layer in found["layers"]] == expected
    assert (found["steps"], found["sequences"], found["held_out"], found["fraction"]) == (12, 3, False, 0.1)


def test_files(run, tmp_path, retrograde):
    made = [tmp_path / name for name in ("pairs.csv", "flow.png", "kept/flow")]
    done = retrograde("flow", run, "--layer", "l1", "--csv", made[0], "--plot", made[1], "--out", made[2])
    written = f"Written: {made[0]}, {made[1]}, {made[2]} (.safetensors and .json)"
    assert done.code == 0 and written.replace(" ", "") in "".join(done.out.split())
    kept = rg.GradientFlow.load(made[2])
    assert kept.layers == ["l1"]
    with made[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == np.count_nonzero(kept.norms) > 0
    t, k = int(rows[7]["t"]), int(rows[7]["k"])
    assert float(rows[7]["norm"]) == kept.norms[0, t, k]
    assert made[1].read_bytes().startswith(b"\x89PNG")


def test_text_shorter_than_asked(run, tmp_path, retrograde):
    short = tmp_path / "short.txt"
    short.write_text("the cat sat")
    done = retrograde("flow", run, short, "--steps", 500)
    assert done.code == 0
    assert "no 500 steps; measured over 10" in done.err
    assert "1 sequence of 10 steps" in done.out
    short.write_text("t")
    assert "too short" in retrograde("flow", run, short).err


def test_training_text_that_is_gone_or_changed(text, tmp_path, retrograde):
    run = tmp_path / "run"
    assert retrograde("train", text, "--out", run, *FEW).code == 0
    text.write_text(text.read_text() + "More of it, much later than the training.\n")
    done = retrograde("flow", run)
    assert done.code == 0 and "has changed since training" in done.err
    text.unlink()
    done = retrograde("flow", run)
    assert done.code == 2 and "give DATA" in done.err


def test_of_a_classifier(tmp_path, retrograde):
    table = tmp_path / "reviews.csv"
    lines = [f"{'word ' * (n % 5 + 1)}{'good' if n % 2 else 'bad'},{'ab'[n % 2]}\n" for n in range(40)]
    table.write_text("text,label\n" + "".join(lines))
    train = ["train", table, "--task", "classify", "--embedding-size", 4, "--out", tmp_path / "run", *FAST]
    assert retrograde(*train).code == 0
    done = retrograde("flow", tmp_path / "run")
    words = " ".join(done.out.split())
    assert done.code == 0 and "E_t is the loss of the whole sequence" in words
    assert "of the gradient that enters a layer at a step, 1% is left in l0" in words  # pooled, in both directions
    measured = retrograde("flow", tmp_path / "run", "--signal", "--json")
    assert measured.code == 0 and json.loads(measured.out)["asked"]["layers"][0]["layer"] == "inputs"
    one = tmp_path / "one.csv"  # a single sequence, of one label, can be measured too
    one.write_text("text,label\nword word bad,a\n")
    found = json.loads(retrograde("flow", tmp_path / "run", one, "--json").out)
    assert (found["sequences"], found["steps"]) == (1, 3)
    assert len(found["layers"][0]["by_lag"]) == 3
    # Of sequences longer and shorter, the longest that --steps allows.
    found = json.loads(retrograde("flow", tmp_path / "run", table, "--json", "--steps", 4, "--sequences", 2).out)
    assert (found["sequences"], found["steps"]) == (2, 4)


def test_of_a_forecast(tmp_path, retrograde):
    table = tmp_path / "series.csv"
    table.write_text("value\n" + "".join(f"{n % 7}\n" for n in range(90)))
    train = ["train", table, "--task", "forecast", "--context", 10, "--horizon", 3, "--out", tmp_path / "run", *FAST]
    assert retrograde(*train).code == 0
    other = tmp_path / "other.csv"
    other.write_text("value\n" + "".join(f"{n % 5}\n" for n in range(40)))
    for data in ([], [other]):
        found = json.loads(retrograde("flow", tmp_path / "run", *data, "--json", "--sequences", 4).out)
        assert (found["sequences"], found["steps"], found["held_out"]) == (4, 10, not data)
        assert found["layers"][0]["by_lag"][0] > 0
    assert "--context" in retrograde("flow", tmp_path / "run", "--steps", 5).err


def test_of_a_synthetic_task(tmp_path, retrograde):
    assert retrograde("train", "builtin:adding?length=20", "--out", tmp_path / "run", *FAST).code == 0
    assert json.loads(retrograde("flow", tmp_path / "run", "--json").out)["steps"] >= 20
    longer = json.loads(retrograde("flow", tmp_path / "run", "builtin:adding?length=30", "--json").out)
    assert longer["steps"] >= 30
    done = retrograde("flow", tmp_path / "run", "builtin:copy-memory")
    assert done.code == 2 and "outputs" in done.err


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def test_of_a_checkpoint_says_what_was_done(checkpoint, retrograde):
    done = retrograde("flow", "--checkpoint", checkpoint, "--steps", 20, "--sequences", 2)
    assert done.code == 0 and done.err == ""
    words = " ".join(done.out.split())
    for part in (
        "2 recurrent modules",
        "encoder: LSTM 3 → 5, bidirectional",
        "decoder: RNN 2 → 4, tanh",
        "--nonlinearity relu",
        "standard-normal noise (seed 0), 2 sequences of 20 steps",
        "no head and no data, so E_t is a fixed random projection of the output",
        "encoder.l0_reverse: the gradient",
    ):
        assert part in words
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_weight_whose_parametrisation_no_file_tells_is_said_to_be_as_stored(tmp_path, retrograde):
    module = nn.GRU(2, 3)
    nn.utils.parametrizations.orthogonal(module, "weight_hh_l0", use_trivialization=False)
    torch.save(module.state_dict(), tmp_path / "a.pt")
    done = retrograde("flow", "--checkpoint", tmp_path / "a.pt", "--steps", 5)
    assert done.code == 0
    assert "(weight_hh_l0: taken as stored under a parametrization" in " ".join(done.out.split())
    facts = json.loads(retrograde("flow", "--checkpoint", tmp_path / "a.pt", "--steps", 5, "--json").out)
    assert facts["as_stored"] == ["weight_hh_l0"]


def test_of_a_checkpoint_driven_by_a_file(checkpoint, tmp_path, retrograde):
    np.save(tmp_path / "in.npy", np.random.default_rng(0).normal(size=(9, 3, 2)))
    asked = ["flow", "--checkpoint", checkpoint, "--input", tmp_path / "in.npy"]
    found = json.loads(retrograde(*asked, "--layer", "decoder", "--nonlinearity", "relu", "--json").out)
    assert found["modules"] == {"decoder": "RNN 2 → 4, relu"}
    assert (found["steps"], found["sequences"], found["seed"]) == (9, 3, None)
    assert found["as_stored"] == []
    done = retrograde(*asked)
    assert done.code == 2 and "takes 3: give (T, B, 3)" in done.err


def test_of_the_weights_of_a_run(run, retrograde):
    done = retrograde("flow", "--checkpoint", run / "model.safetensors", "--json", "--steps", 10)
    [(_, words)] = json.loads(done.out)["modules"].items()
    assert words == "GRU 6 → 12, 2 layers"


def test_names_in_a_checkpoint_give_the_terminal_no_orders(tmp_path, retrograde):
    path = tmp_path / "odd\x1b[31m.safetensors"
    save_file({f"a\x1b]0;title\x07[red]$x$\nb.{k}": v for k, v in nn.GRU(2, 3).state_dict().items()}, path)
    done = retrograde("flow", "--checkpoint", path, "--steps", 5, "--plot", tmp_path / "a.png")
    assert done.code == 0
    assert not {"\x1b", "\x07"} & set(done.out)
    save_file({"a\x1b[31m\nb": torch.ones(1)}, path)
    done = retrograde("flow", "--checkpoint", path)
    assert done.code == 2 and "\x1b" not in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "either a run folder or --checkpoint"),
        (["RUN", "--checkpoint", "CHECKPOINT"], "either a run folder or --checkpoint"),
        (["RUN", "--seed", "1"], "--seed is for --checkpoint"),
        (["RUN", "--fraction", "1.5"], "--fraction 1.5 is impossible"),
        (["RUN", "--layer", "l7"], "l7"),
        (["RUN", "none.txt"], "none.txt does not exist"),
        (["none"], "none does not exist"),
        (["RUN", "--plot", "flow.doc"], "must end in .png"),
        (["RUN", "--csv", "none/flow.csv"], "No such file"),
        (["--checkpoint", "none.pt"], "none.pt cannot be read"),
        (["--checkpoint", "RUN"], "is a folder"),
        (
            ["--checkpoint", "CHECKPOINT", "--layer", "l3"],
            "this checkpoint has decoder.l0, encoder.l0, encoder.l0_reverse",
        ),
        (["--checkpoint", "CHECKPOINT", "--nonlinearity", "gelu"], "'gelu'"),
        (["--checkpoint", "CHECKPOINT", "--steps", "1"], "--steps"),
    ],
)
def test_bad_input_is_one_line_and_code_2(options, message, run, checkpoint, retrograde):
    given = {"RUN": run, "CHECKPOINT": checkpoint}
    done = retrograde("flow", *[given.get(option, option) for option in options])
    assert done.code == 2 and done.out == ""
    assert message in done.err and done.err.count("\n") == 1


def test_a_header_of_numpy_that_python_cannot_read(retrograde, tmp_path):
    """Found by fuzzing: NumPy reads a header as Python, and raises whatever Python's tokenizer does."""
    weights, numbers = tmp_path / "a.safetensors", tmp_path / "a.npy"
    save_file({"rnn.weight_ih_l0": torch.zeros(3, 2), "rnn.weight_hh_l0": torch.zeros(3, 3)}, weights)
    np.save(numbers, np.zeros((4, 1, 2), np.float32))
    content = numbers.read_bytes()
    for odd in (content.replace(b"}", b"["), content.replace(b"(4", b"((4L"), b"PK" + content, content[:90]):
        numbers.write_bytes(odd)
        outcome = retrograde("flow", "--checkpoint", weights, "--input", numbers)
        assert outcome.code == 2 and outcome.err.count("\n") == 1 and "not a complete .npy file" in outcome.err


@pytest.fixture
def early(retrograde, tmp_path):
    """A run on sequences whose label is the sign of their first number."""
    rng, file, folder = np.random.default_rng(0), tmp_path / "early.csv", tmp_path / "early"
    x = rng.standard_normal((150, 12))
    rows = [f"{i},{t},{v:.4f},{'up' if row[0] > 0 else 'down'}" for i, row in enumerate(x) for t, v in enumerate(row)]
    file.write_text("\n".join(["id,t,x,label", *rows]))
    columns = ["--task", "classify", "--group", "id", "--time", "t", "--label", "label", "--features", "x"]
    columns += ["--no-bidirectional", "--pooling", "last", "--schedule", "constant", "--lr", 0.002]  # not by the data
    done = retrograde("train", file, "--out", folder, *columns, *FAST, "--cell", "rnn")
    assert done.code == 0, done.err
    return folder


def test_the_signal_of_a_run(early, retrograde):
    done = retrograde("flow", early, "--signal")
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    assert "What the data asks for (untrained network): a signal up to lag 11" in words
    assert "of the error of a constant output is left" in words and "falls to 1%" in words
    assert max(len(line) for line in done.out.splitlines() if str(early) not in line) <= 80
    assert re.search(r"^ *11( +\d+\.\d%\*?  *\S+){2} *$", done.out, re.M), (
        "consistency and p at lag 11, before and after"
    )
    kept = json.loads((early / "flow" / "signal.json").read_text())
    assert kept["need"] == 11
    assert retrograde("report", early).code == 0
    page = (early / "report.html").read_text()
    assert "The data asks for a memory of 11 steps" in page and "Consistency of the gradient" in page
    (figure,) = signal.section(read(early)).figures
    assert all(len(row) == 5 and "—" not in row[1:] for row in figure.numbers.rows)  # before and after, of one layer
    told = json.loads(retrograde("flow", early, "--signal", "--json").out)
    assert told["need"] == 11 and told["asked"]["layers"][0]["layer"] == "l0"


def test_a_damaged_signal_costs_only_its_section(early, retrograde):
    (early / "flow").mkdir(exist_ok=True)
    (early / "flow" / "signal.json").write_text('{"asked": {}}')
    assert retrograde("report", early).code == 0
    assert "The signal by lag cannot be shown" in (early / "report.html").read_text()


def test_the_signal_takes_no_option_that_it_would_ignore(early, retrograde, tmp_path):
    done = retrograde("flow", early, "--signal", "--csv", tmp_path / "x.csv")
    assert done.code == 2 and "--csv has no effect with --signal" in done.err
    done = retrograde("flow", "--signal")
    assert done.code == 2 and "run folder" in done.err
