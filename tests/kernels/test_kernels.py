from retrograde import kernels


def test_the_engine_is_built_and_names_its_instruction_set() -> None:
    assert kernels.available()
    assert kernels.info()["instruction_set"] in {"avx512", "avx2", "neon", "portable"}
