"""Tallec and Ollivier 2018: chrono initialization lets an LSTM learn long lags many times faster."""

from paper import Arm, Paper, main

if __name__ == "__main__":
    main(
        Paper(
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
            cure=frozenset({"chrono", "forget_bias"}),
            scaled="T = 200 instead of 750, Adam instead of RMSProp, and 2,500 updates, within which only one arm is "
            "to learn.",
        )
    )
