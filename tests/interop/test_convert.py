"""Every container into every other: the same values, said by digest and found by `diff`, or a refusal that says why."""

import pytest

CONTAINERS = ("compressed-tensors", "awq", "gptq", "gptq-v2", "gguf")
SAME = "the same values"
ALREADY = "already"
WRAPS = "a zero of 0 would wrap"
MINIMUM = "blocks with a minimum round it, and zero points would change"
BITS_OF_GPTQ = "GPTQ holds 2, 3, 4 or 8 bits, not 5"
NO_CONTAINER = "holds no tensor that is quantized in a container"
NOT_KEPT = "is in no container whose codes could be kept"

# Container and scheme of the source, then what comes of each container in the order above.
MATRIX = {
    ("compressed-tensors", "int3-g32-sym"): (ALREADY, "holds 4 bits, not 3", SAME, SAME, "no block has symmetric codes of 3 bits"),
    ("compressed-tensors", "int4-g32"): (ALREADY, SAME, WRAPS, SAME, MINIMUM),
    ("compressed-tensors", "int4-g32-sym"): (ALREADY, SAME, SAME, SAME, SAME),
    ("compressed-tensors", "int5-g32-sym"): (ALREADY, "holds 4 bits, not 5", BITS_OF_GPTQ, BITS_OF_GPTQ, SAME),
    ("compressed-tensors", "int8-g32"): (ALREADY, "holds 4 bits, not 8", WRAPS, SAME, MINIMUM),
    ("compressed-tensors", "int8-g32-sym"): (ALREADY, "holds 4 bits, not 8", SAME, SAME, SAME),
    ("awq", "int4-g32"): (SAME, ALREADY, WRAPS, SAME, MINIMUM),
    ("gptq", "int4-g32-sym"): (SAME, SAME, ALREADY, SAME, SAME),
    ("gptq", "int3-g32-sym"): (SAME, "holds 4 bits, not 3", ALREADY, SAME, "no block has symmetric codes of 3 bits"),
    ("gptq-v2", "int4-g32"): (SAME, SAME, WRAPS, ALREADY, MINIMUM),
    ("gguf", "q4_0"): (NO_CONTAINER, NO_CONTAINER, NO_CONTAINER, NO_CONTAINER, NOT_KEPT),
    ("gguf", "q8_0"): (NO_CONTAINER, NO_CONTAINER, NO_CONTAINER, NO_CONTAINER, NOT_KEPT),
}


@pytest.mark.parametrize("container, scheme", MATRIX)
def test_into_every_other(reweight, tmp_path, container, scheme):
    extension = {"gguf": ".gguf"}
    source = tmp_path / f"source{extension.get(container, '')}"
    floats = () if container == "gguf" else ("--scale-dtype", "f16", "--dtype", "f16")
    reweight("quantize", "demo", source, "--to", container, "--scheme", scheme, "--method", "rtn", *floats)
    for to, expected in zip(CONTAINERS, MATRIX[container, scheme], strict=True):
        target = tmp_path / f"{to}{extension.get(to, '')}"
        if expected is not SAME:
            with pytest.raises(AssertionError, match="status 2") as refused:
                reweight("convert", source, target, "--to", to)
            assert expected in str(refused.value) and not target.exists()
            continue
        told = reweight("convert", source, target, "--to", to, "--json")
        assert ("values_digest" in told) is (to != "gguf")  # of GGUF blocks, `diff` says it
        assert reweight("diff", source, target, "--json")["identical"] is True
        if to == "gguf" or (to == "awq" and scheme.endswith("-sym")):
            continue  # zeros that were not stored now are, so the way back is not symmetric any more
        again = tmp_path / f"{to}-again"
        reweight("convert", target, again, "--to", container)
        assert (again / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
        assert reweight("verify", again, "--json")


@pytest.mark.parametrize("container, scheme", [key for key in MATRIX if key[0] != "gguf"])
def test_into_floats_and_the_values_stay(reweight, tmp_path, container, scheme):
    reweight("quantize", "demo", tmp_path / "q", "--to", container, "--scheme", scheme, "--method", "rtn", "--scale-dtype", "f16")
    reweight("convert", tmp_path / "q", tmp_path / "f32", "--to", "f32")
    assert reweight("diff", tmp_path / "q", tmp_path / "f32", "--json")["identical"] is True
