"""Pascanu, Mikolov and Bengio 2013: clipping and the regularizer let a tanh network learn the temporal order."""

from paper import Arm, Paper, main

if __name__ == "__main__":
    main(
        Paper(
            key="pascanu2013",
            citation="Pascanu, Mikolov and Bengio 2013, On the difficulty of training recurrent neural networks, "
            "temporal order",
            claim="Plain SGD fails on the temporal order of long sequences; with clipping and the regularizer a tanh "
            "network of 50 units solves it (under 1 % of 10,000 wrong).",
            data="builtin:temporal-order?length=50&variant=pascanu",
            full_data="builtin:temporal-order?length=200&variant=pascanu",
            options={
                "cell": "rnn",
                "hidden_size": 50,
                "batch_size": 20,
                "optimizer": "sgd",
                "lr": 0.01,
                "max_steps": 20_000,
                "eval_every": 1000,
            },
            full_options={"max_steps": 1_000_000},
            arms=[
                Arm("SGD", {"clip_norm": 1e9}, learns=False),
                Arm("SGD, clipping", {"clip_norm": 1.0}, learns=False),
                Arm("SGD, clipping, regularizer", {"clip_norm": 1.0, "omega": 0.32}, learns=True),
            ],
            cure=frozenset({"omega"}),
            scaled="sequences of 50 steps (the paper: 50 to 200) and 20,000 updates. The regularizer's weight of 4 is "
            "about 16 / T = 0.32 here (`retrograde.training.regularize`).",
        )
    )
