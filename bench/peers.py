"""This system beside other ways to predict encrypted, in one run, on one machine.

TenSEAL: the encrypted forward of the Python ChemXor (OlindaNetZero) written again with CKKS: the
client encrypts, the server evaluates a layer, the client decrypts, squares its way through the
activation and encrypts again. Concrete ML: a network on the same bits, compiled to TFHE. Each runs
when its package is installed; otherwise its rows say so. CSV on standard output.
"""

import sys
import time

from system import Platform, median


def ours(quick):
    rows = 20 if quick else 100
    with Platform() as platform:
        mlp, holdout = platform.mlp()
        zero = platform.net("olinda-zero")
        for model in (mlp, zero):
            platform.run("evaluate", model, "--holdout", holdout, "--rows", "5")
            report = platform.run("evaluate", model, "--holdout", holdout, "--rows", str(rows))
            yield model, report["summary"]["p50_ms"], report["bytes_up"], report["bytes_down"]


def tenseal_zero(quick):
    """OlindaNetZero: conv 1->32 3x3 stride 3 on 32x32, linear 3200-512-256-1."""
    import numpy
    import tenseal

    rng = numpy.random.default_rng(7)
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[31, 26, 26, 26, 26, 26, 31]
    )
    context.global_scale = 2**26
    context.generate_galois_keys()
    public = context.copy()
    public.make_context_public()
    context_bytes = len(public.serialize())
    image = rng.integers(0, 8, (32, 32)).astype(float) / 8
    filters = rng.normal(0, 0.1, (32, 3, 3))
    layers = [rng.normal(0, 0.02, shape) for shape in ((3200, 512), (512, 256), (256, 1))]
    softplus = (numpy.log(2), 0.5, 0.125)
    polynomial = lambda x: softplus[0] + softplus[1] * x + softplus[2] * x * x
    up = down = 0

    def travel(vector):
        nonlocal down
        data = vector.serialize()
        down += len(data)
        return numpy.array(tenseal.ckks_vector_from(context, data).decrypt())

    started = time.perf_counter()
    packed, windows = tenseal.im2col_encoding(context, image.tolist(), 3, 3, 3)
    up += len(packed.serialize()) + context_bytes
    channels = [packed.conv2d_im2col(kernel.tolist(), windows) for kernel in filters]
    values = polynomial(numpy.concatenate([travel(channel) for channel in channels]))
    for number, layer in enumerate(layers):
        # a ciphertext has 4096 slots; ChemXor sends the context with every step
        vector = tenseal.ckks_vector(context, values.tolist())
        up += len(vector.serialize()) + context_bytes
        values = travel(vector.matmul(layer.tolist()))
        if number + 1 < len(layers):
            values = polynomial(values)
    return (time.perf_counter() - started) * 1e3, up, down


def concrete_mlp(quick):
    """A network 2048-64-1 on bits, the features of the MLP above."""
    import numpy
    from concrete.ml.sklearn import NeuralNetRegressor
    from torch import nn

    rng = numpy.random.default_rng(7)
    features = (rng.random((500, 2048)) < 0.02).astype(numpy.float32)
    targets = features[:, :50].sum(1, keepdims=True).astype(numpy.float32)
    model = NeuralNetRegressor(
        module__n_layers=2, module__n_hidden_neurons_multiplier=64 / 2048, module__activation_function=nn.ReLU,
        module__n_w_bits=3, module__n_a_bits=3, max_epochs=3, verbose=0,
    )
    model.fit(features, targets)
    circuit = model.compile(features[:100])
    circuit.client.keygen()
    times = []
    for row in range(1 if quick else 5):
        started = time.perf_counter()
        model.predict(features[row : row + 1], fhe="execute")
        times.append((time.perf_counter() - started) * 1e3)
    return median(times), "", ""


def main(quick):
    print("system,network,ms_a_molecule,bytes_up,bytes_down,times_ours")
    own = {}
    for model, ms, up, down in ours(quick):
        own[model] = ms
        print(f"chemxor,{model},{ms:.2f},{up},{down},1")
    for system, network, against, measure in (
        ("tenseal", "olinda-zero", "olinda-zero", tenseal_zero),
        ("concrete-ml", "mlp 2048-64-1", "mlp", concrete_mlp),
    ):
        try:
            ms, up, down = measure(quick)
        except ImportError as missing:
            print(f"{system},{network},not installed ({missing.name}),,,")
            continue
        print(f"{system},{network},{ms:.0f},{up},{down},{ms / own[against]:.0f}")


if __name__ == "__main__":
    main("--quick" in sys.argv)
