"""One recurrent layer by itself: its steps, and the adjoint recursion over them."""
