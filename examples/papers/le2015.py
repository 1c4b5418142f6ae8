"""Le, Jaitly and Hinton 2015: a ReLU network that starts as the identity learns what a tanh network cannot."""

from paper import Arm, Paper, main

if __name__ == "__main__":
    main(
        Paper(
            key="le2015",
            citation="Le, Jaitly and Hinton 2015, A Simple Way to Initialize Recurrent Networks of Rectified Linear "
            "Units, adding problem",
            claim="On the adding problem of T = 150 to 400 the IRNN learns as an LSTM does; a tanh network does not.",
            data="builtin:adding?length=150&variant=arjovsky",
            full_data="builtin:adding?length=400&variant=arjovsky",
            options={"hidden_size": 100, "batch_size": 16, "max_steps": 12_000, "eval_every": 500},
            full_options={"max_steps": 60_000},
            arms=[
                Arm("tanh RNN", {"cell": "rnn", "lr": 0.001}, learns=False),
                Arm("IRNN", {"cell": "rnn", "nonlinearity": "relu", "init": "identity", "lr": 0.0001}, learns=True),
                Arm("LSTM", {"cell": "lstm", "forget_bias": 1.0, "lr": 0.001}, learns=True),
            ],
            cure=frozenset({"nonlinearity"}),
            scaled="T = 150, the shortest of the paper's lengths; Adam instead of SGD.",
        )
    )
