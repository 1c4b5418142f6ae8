"""Tallec and Ollivier 2018: chrono initialization lets an LSTM learn long lags faster, and does not help elsewhere."""

from pathlib import Path
from pydoc_data import topics

from paper import Arm, Paper, main

ADDING = Paper(
    key="tallec2018",
    citation="Tallec and Ollivier 2018, Can Recurrent Neural Networks Warp Time?, adding problem",
    claim="With gate biases for lags of up to T an LSTM learns the adding problem of T = 750 about seven times "
    "faster than with a forget bias of 1.",
    data="builtin:adding?length=200&variant=arjovsky",
    full_data="builtin:adding?length=750&variant=arjovsky",
    options={
        "cell": "lstm",
        "hidden_size": 128,
        "batch_size": 50,
        "lr": 0.001,
        "max_steps": 2500,
        "eval_every": 100,
    },
    full_options={"max_steps": 20_000},
    arms=[
        Arm("forget bias 1", {"forget_bias": 1.0}, learns=False),
        Arm("chrono", {"chrono": 200}, learns=True),
    ],
    cure=frozenset({"chrono"}),
    scaled="T = 200 instead of 750, Adam instead of RMSProp, and 2,500 updates, within which only one arm is to learn.",
    reported="about seven times faster (T = 750).",
)


def text(path: Path) -> Paper:
    """The specificity test: a text, in which little is to be remembered for long. It is written to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(topics.topics[name] for name in sorted(topics.topics)), encoding="utf-8")
    return Paper(
        key="tallec2018-text",
        citation="Tallec and Ollivier 2018, Can Recurrent Neural Networks Warp Time?, text",
        claim="On text, where memory is not what is missing, chrono initialization gains nothing.",
        data=str(path),
        options={"cell": "lstm", "hidden_size": 64, "batch_size": 16, "bptt": 50, "lr": 0.002, "max_steps": 600},
        full_options={"hidden_size": 512, "max_steps": 20_000},
        arms=[
            Arm("forget bias 1", {"forget_bias": 1.0}, learns=True),
            Arm("chrono", {"chrono": 50}, learns=True),
        ],
        cure=frozenset(),
        scaled="characters of Python's own documentation (`pydoc_data.topics`) instead of the Penn Treebank, which is "
        "sold and cannot be downloaded here; 64 units instead of 1,000, 600 updates.",
        reported="no gain on the Penn Treebank.",
    )


if __name__ == "__main__":
    main(ADDING)
    main(text(Path("runs/papers/topics.txt")))
