"""The bundled demo model, quantized and loaded, beside plain round-to-nearest of the same scheme."""

import pytest
from folders import PACKED, decompress, differing, read
from loading import continues, language_model, loss
from reference import Scheme, write
from transformers import AutoTokenizer


@pytest.mark.parametrize("method", ["rtn", "search"])
def test_demo_int3_loads_and_speaks(reweight, demo, heldout, measured, tmp_path, method):
    tokenizer = AutoTokenizer.from_pretrained(demo)
    reweight("quantize", "demo", tmp_path / "t", "--scheme", "int3-g64", "--method", method)
    weights, rest = decompress(tmp_path / "t")
    before, after = language_model(demo), language_model(tmp_path / "t")
    assert differing(after.state_dict(), weights | rest) == []
    assert differing(before.state_dict(), rest) == []

    modules = [name.removesuffix(PACKED) for name in read(tmp_path / "t") if name.endswith(PACKED)]
    write(demo, tmp_path / "plain", dict.fromkeys(modules, Scheme(3, 64, False)), ["lm_head"], dequantize=True)
    plain = language_model(tmp_path / "plain")

    said = continues(after, tokenizer, "The function")
    nats = {name: loss(model, tokenizer, heldout) for name, model in [("was", before), ("plain", plain), ("now", after)]}
    measured(f"demo int3-g64 {method}: {nats['now']:.4f} nats, unquantized {nats['was']:.4f}, says {said!r}")
    # one token of 512 may be luckier or unluckier by a nat or two; a wrong group costs far more
    assert nats["now"] <= nats["plain"] + 0.02
