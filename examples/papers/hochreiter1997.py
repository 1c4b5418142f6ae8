"""Hochreiter and Schmidhuber 1997: an LSTM solves the adding problem with lags that a vanilla network cannot bridge."""

from paper import Arm, Paper, main

if __name__ == "__main__":
    main(
        Paper(
            key="hochreiter1997",
            citation="Hochreiter and Schmidhuber 1997, Long Short-Term Memory, experiment 4 (adding problem)",
            claim="An LSTM solves the adding problem of T = 100; with a tanh network the error stays at chance.",
            data="builtin:adding?length=100",
            options={"hidden_size": 64, "batch_size": 20, "max_steps": 3700, "eval_every": 100},
            arms=[
                Arm("tanh RNN", {"cell": "rnn", "lr": 0.001}, learns=False),
                Arm("LSTM", {"cell": "lstm", "forget_bias": 8.0, "lr": 0.001}, learns=True),
            ],
            cure=frozenset({"cell"}),
            scaled="74,000 sequences of 100 to 110 steps are the paper's, but the LSTM of 1997 had no forget "
            "gate, for which a forget bias of 8 stands; Adam and batches of 20 replace one sequence at a time.",
        )
    )
