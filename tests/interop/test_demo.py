"""The bundled demo model, quantized and loaded, beside plain round-to-nearest of the same scheme."""

import pytest
from folders import decompress, differing, read
from loading import continues, language_model, loss
from reference import Scheme, write
from transformers import AutoTokenizer


@pytest.fixture(scope="module")
def tokenizer(demo):
    return AutoTokenizer.from_pretrained(demo)


@pytest.fixture(scope="module")
def before(demo, tokenizer, heldout):
    return loss(language_model(demo), tokenizer, heldout)


@pytest.fixture(scope="module")
def plain(demo, tokenizer, heldout, tmp_path_factory):
    """The loss after reference.py's int3-g64 of every projection."""
    modules = [name.removesuffix(".weight") for name in read(demo) if "_proj." in name]
    folder = tmp_path_factory.mktemp("plain") / "t"
    write(demo, folder, dict.fromkeys(modules, Scheme(3, 64, False)), ["lm_head"], dequantize=True)
    return loss(language_model(folder), tokenizer, heldout)


@pytest.mark.parametrize("method", ["rtn", "search"])
def test_demo_int3_loads_and_speaks(reweight, demo, tokenizer, heldout, before, plain, measured, tmp_path, method):
    reweight("quantize", "demo", tmp_path / "t", "--scheme", "int3-g64", "--method", method)
    weights, rest = decompress(tmp_path / "t")
    assert differing(read(demo), rest) == []
    model = language_model(tmp_path / "t")
    assert differing(model.state_dict(), weights | rest) == []
    said = continues(model, tokenizer, "The function")
    nats = loss(model, tokenizer, heldout)
    measured(f"demo int3-g64 {method}: {nats:.4f} nats, plain {plain:.4f}, unquantized {before:.4f}, says {said!r}")
    assert nats <= plain + 0.02  # the noise of 512 tokens; a group decoded wrongly costs far more
