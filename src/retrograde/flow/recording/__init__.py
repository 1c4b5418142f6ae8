"""Run anyone's model once, leave no trace, and keep what its recurrent layers did and what the losses depend on."""
