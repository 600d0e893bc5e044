"""The real llama.cpp server over a tiny random model: `python -m support.llama MODEL PORT` serves until it is ended."""

import signal
import sys
from pathlib import Path

WORDS = 200
CONTEXT = 16_384  # tokens of each of the two slots


def write_model(path: Path) -> None:
    """Write a random model of llama's architecture, 0.6 MB, whose greedy answers are words and never end early.

    The vocabulary is three control tokens, 256 bytes, the printable ASCII characters and `w0` to `w199`.
    """
    import numpy as np
    from gguf import GGUFWriter, TokenType

    random = np.random.default_rng(20_261_124)
    width, inner, heads, layers = 64, 128, 4, 2
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = ["▁", *(chr(code) for code in range(33, 127)), "▁w", *(f"▁w{number}" for number in range(WORDS))]
    tokens = specials + pieces

    def matrix(*shape: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        return random.normal(0, 0.5, shape).astype(np.float32)

    writer = GGUFWriter(path, "llama")
    writer.add_context_length(2 * CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(specials) + [float(len(piece)) for piece in pieces])
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * 256
    writer.add_token_types([*kinds, *[TokenType.NORMAL] * len(pieces)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")

    output = matrix(len(tokens), width)
    output[: len(specials) + 96] = 0  # a logit of 0 is never the largest: only words are answered
    writer.add_tensor("token_embd.weight", matrix(len(tokens), width))
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(width, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(width, width))
        writer.add_tensor(f"blk.{layer}.ffn_gate.weight", matrix(inner, width))
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", matrix(inner, width))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", matrix(width, inner))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Serve the model on loopback, with one thread and two slots."""
    import xllamacpp  # type: ignore[import-untyped]  # it has no types

    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames = ["127.0.0.1"]
    params.port = int(sys.argv[2])
    params.n_ctx = 2 * CONTEXT
    params.n_parallel = 2
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.endpoint_slots = True
    params.endpoint_metrics = True
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
