"""Handwritten digits five ways, every loop written out.

Reproduces  tutorial_mnist.py of TensorLayer 1.3 with its hyper-parameters:
              mlp                 784-800-800-10, dropout .8 .5 .5, 100 epochs
              dropconnect         the same, dropping weights instead of activations
              denoise_ae          784-196-784 autoencoder of half-erased digits, 200 epochs
              stacked_denoise_ae  two such layers of 800, pre-trained 100 epochs each, then fine-tuned 200
              cnn                 two 5x5 convolutions of 32 and 64 filters, 200 epochs
            --init glorot is the page's (its printed table needs it), truncated_normal the one of TensorLayer 1.3.11.
Expect      mlp: validation accuracy .9717 at epoch 10 and .9837 at epoch 40 (the page), see examples/README.md.
Run         python examples/tutorial_mnist.py --model mlp [--data DIR]
            python examples/tutorial_mnist.py --model all     # the five, about a minute on one H200
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import torchlayer as tl

EPOCHS = {"mlp": 100, "dropconnect": 100, "denoise_ae": 200, "stacked_denoise_ae": 200, "cnn": 200}
PRETRAIN_EPOCHS = 100
INITIALIZERS = {
    "glorot": tl.initializers.glorot_normal(),
    "truncated_normal": tl.initializers.truncated_normal(stddev=0.1),
}


# The networks --------------------------------------------------------------------


def build_mlp(W_init):
    net = tl.layers.InputLayer((None, 784), name="input_layer")
    net = tl.layers.DropoutLayer(net, keep=0.8, name="drop1")
    net = tl.layers.DenseLayer(net, n_units=800, act=torch.relu, W_init=W_init, name="relu1")
    net = tl.layers.DropoutLayer(net, keep=0.5, name="drop2")
    net = tl.layers.DenseLayer(net, n_units=800, act=torch.relu, W_init=W_init, name="relu2")
    net = tl.layers.DropoutLayer(net, keep=0.5, name="drop3")
    return tl.layers.DenseLayer(net, n_units=10, W_init=W_init, name="output_layer")


def build_dropconnect(W_init):
    net = tl.layers.InputLayer((None, 784), name="input_layer")
    net = tl.layers.DropconnectDenseLayer(net, keep=0.8, n_units=800, act=torch.relu, W_init=W_init, name="relu1")
    net = tl.layers.DropconnectDenseLayer(net, keep=0.5, n_units=800, act=torch.relu, W_init=W_init, name="relu2")
    return tl.layers.DropconnectDenseLayer(net, keep=0.5, n_units=10, W_init=W_init, name="output_layer")


def build_denoise_ae(W_init):
    x = tl.layers.InputLayer((None, 784), name="input_layer")
    net = tl.layers.DropoutLayer(x, keep=0.5, name="denoising1")  # the corruption: half of the pixels erased
    net = tl.layers.DenseLayer(net, n_units=196, act=torch.relu, W_init=W_init, name="relu1")
    return tl.layers.ReconLayer(net, x_recon=x, n_units=784, act=F.softplus, W_init=W_init, name="recon_layer1")


def build_stacked_denoise_ae(W_init):
    """The classifier, and the decoder of each layer: branches that leave it and never enter it."""
    x = tl.layers.InputLayer((None, 784), name="input_layer")
    net = tl.layers.DropoutLayer(x, keep=0.5, name="denoising1")
    net = tl.layers.DropoutLayer(net, keep=0.8, name="drop1")
    low = tl.layers.DenseLayer(net, n_units=800, act=torch.relu, W_init=W_init, name="relu1")
    recon1 = tl.layers.ReconLayer(low, x_recon=x, n_units=784, act=F.softplus, W_init=W_init, name="recon_layer1")
    net = tl.layers.DropoutLayer(low, keep=0.5, name="drop2")
    net = tl.layers.DenseLayer(net, n_units=800, act=torch.relu, W_init=W_init, name="relu2")
    recon2 = tl.layers.ReconLayer(net, x_recon=low, n_units=800, act=F.softplus, W_init=W_init, name="recon_layer2")
    net = tl.layers.DropoutLayer(net, keep=0.5, name="drop3")
    return tl.layers.DenseLayer(net, n_units=10, W_init=W_init, name="output_layer"), recon1, recon2


def build_cnn(W_init):
    net = tl.layers.InputLayer((None, 28, 28, 1), name="input_layer")
    net = tl.layers.Conv2d(net, n_filter=32, filter_size=(5, 5), act=torch.relu, name="cnn1")  # (N, 28, 28, 32)
    net = tl.layers.MaxPool2d(net, filter_size=(2, 2), name="pool1")  # (N, 14, 14, 32)
    net = tl.layers.Conv2d(net, n_filter=64, filter_size=(5, 5), act=torch.relu, name="cnn2")  # (N, 14, 14, 64)
    net = tl.layers.MaxPool2d(net, filter_size=(2, 2), name="pool2")  # (N, 7, 7, 64)
    net = tl.layers.FlattenLayer(net, name="flatten")  # (N, 3136)
    net = tl.layers.DropoutLayer(net, keep=0.5, name="drop1")
    net = tl.layers.DenseLayer(net, n_units=256, act=torch.relu, W_init=W_init, name="relu1")
    net = tl.layers.DropoutLayer(net, keep=0.5, name="drop2")
    return tl.layers.DenseLayer(net, n_units=10, W_init=W_init, name="output_layer")


# Training and testing ------------------------------------------------------------


@torch.no_grad()
def evaluate(net, X, y):
    """Loss and accuracy over all examples, noise off."""
    net.eval()
    logits = torch.cat([net(x) for x in X.split(5000)])
    net.train()
    return float(tl.cost.cross_entropy(logits, y)), float(tl.utils.accuracy(logits, y))


def train(net, data, args, name, noise_off=None):
    """The loop: minibatches, one step each, and every few epochs a look at the validation set."""
    X_train, y_train, X_val, y_val, X_test, y_test = data
    n_epoch, print_freq = args.epochs or EPOCHS[name], 5 if EPOCHS[name] == 100 else 10
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)
    step = tl.TrainStep(net, optimizer, tl.cost.cross_entropy)
    history = {"epoch": [], "seconds": [], "train_loss": [], "val_loss": [], "train_acc": [], "val_acc": []}
    saved = {"resume": args.resume, "every_seconds": args.checkpoint_seconds, "extra": history}
    run = tl.Resumable(args.out / f"{name}.ckpt", model=net, optimizer=optimizer, **saved)
    print(f"   learning_rate: {args.lr:f}\n   batch_size: {args.batch_size}")

    with run:
        bar = tqdm(run.epochs(n_epoch), desc=name, initial=run.epoch, total=n_epoch, unit="epoch", disable=None)
        for epoch in bar:
            started = time.perf_counter()
            net.train()
            if noise_off is not None:
                net.get_submodule(noise_off).eval()
            for x, y in run.steps(tl.iterate.minibatches(X_train, y_train, args.batch_size, shuffle=True)):
                loss = step(x, y)
            loss.item()  # wait for the last step, so that the clock is honest
            seconds = time.perf_counter() - started

            if epoch == 1 or epoch % print_freq == 0 or epoch == n_epoch:
                train_loss, train_acc = evaluate(net, X_train, y_train)
                val_loss, val_acc = evaluate(net, X_val, y_val)
                for key, value in zip(history, (epoch, seconds, train_loss, val_loss, train_acc, val_acc)):
                    history[key].append(value)
                tqdm.write(f"Epoch {epoch} of {n_epoch} took {seconds:f}s")
                tqdm.write(f"   train loss: {train_loss:f}\n   val loss: {val_loss:f}\n   val acc: {val_acc:f}")

    test_loss, test_acc = evaluate(net, X_test, y_test)
    print(f"   test loss: {test_loss:f}\n   test acc: {test_acc:f}")
    tl.visualize.curves(history, name=args.out / f"{name}_curves.png")
    tl.files.save_npz(net, name=args.out / f"{name}.npz")
    return {"test_acc": test_acc, "seconds_per_epoch": float(np.median(history["seconds"]))}


def probe(encoder, data, args):
    """How much of the digit is in the code: the test accuracy of a linear classifier that sees nothing else."""
    X_train, y_train, _, _, X_test, y_test = data
    with torch.no_grad():
        codes, test_codes = encoder(X_train), encoder(X_test)
    net = tl.layers.DenseLayer(tl.layers.InputLayer(codes), n_units=10, name="probe").to(codes.device)
    step = tl.TrainStep(net, torch.optim.Adam(net.parameters(), lr=1e-3), tl.cost.cross_entropy)
    for _ in range(2 if args.smoke else 20):
        for x, y in tl.iterate.minibatches(codes, y_train, args.batch_size, shuffle=True):
            step(x, y)
    return evaluate(net, test_codes, y_test)[1]


# The five variants ---------------------------------------------------------------


def run_layers(name, build, data, args, W_init):
    net = build(W_init).to(args.device)
    net.print_params()
    net.print_layers()
    result = train(net, data, args, name)
    tl.visualize.W(net.relu1.W, shape=[28, 28], name=args.out / f"{name}_filters.png")
    return result


def run_denoise_ae(data, args, W_init):
    net = build_denoise_ae(W_init).to(args.device)
    net.print_params()
    n_epoch, save_name = args.epochs or EPOCHS["denoise_ae"], str(args.out / "denoise_ae_w1pre_")
    saved = {"checkpoint": args.out / "denoise_ae.ckpt", "resume": args.resume}
    saved["checkpoint_seconds"] = args.checkpoint_seconds
    net.pretrain(data[0], data[2], "denoising1", n_epoch, args.batch_size, save=False, save_name=save_name, **saved)
    net.eval()
    with torch.no_grad():
        loss = float(net.cost(data[2]))
        shown = data[4][:10]
        net.denoising1.train()
        erased, restored = net.activations(shown)["denoising1"].clamp(0, 1), net(shown).clamp(0, 1)
        net.eval()
    tl.visualize.W(net.relu1.W, shape=[28, 28], name=args.out / "denoise_ae_filters.png")
    rows = torch.cat([shown, erased, restored]).view(-1, 28, 28, 1)
    tl.visualize.images2d(rows, n_columns=10, name=args.out / "denoise_ae_restored.png")
    tl.files.save_npz(net, name=args.out / "denoise_ae.npz")
    return {"val_loss": loss, "probe_acc": probe(net.relu1, data, args)}


def run_stacked_denoise_ae(data, args, W_init):
    net, recon1, recon2 = build_stacked_denoise_ae(W_init)
    for part in (net, recon1, recon2):
        part.to(args.device)
    n_epoch = args.epochs or PRETRAIN_EPOCHS
    if not (args.resume and (args.out / "stacked_denoise_ae.ckpt").exists()):
        for i, recon in enumerate((recon1, recon2), start=1):
            saved = {"checkpoint": args.out / f"stacked_denoise_ae_{i}.ckpt", "resume": args.resume}
            saved["checkpoint_seconds"] = args.checkpoint_seconds
            recon.pretrain(data[0], data[2], "denoising1", n_epoch, args.batch_size, save=False, **saved)
    result = train(net, data, args, "stacked_denoise_ae", noise_off="denoising1")
    tl.visualize.W(net.relu1.W, shape=[28, 28], name=args.out / "stacked_denoise_ae_filters.png")
    return result


def run_cnn(data, args, W_init):
    net = build_cnn(W_init).to(args.device)
    net.print_params()
    net.print_layers()
    result = train(net, [x.view(-1, 28, 28, 1) if x.dim() == 2 else x for x in data], args, "cnn")
    tl.visualize.CNN2d(net.cnn1.W, channels_first=True, name=args.out / "cnn_filters.png")
    return result


def load(args):
    if not args.smoke:
        return tl.files.load_mnist_dataset(shape=(-1, 784), path=args.data)
    digits = [x[::3] for x in tl.files.load_digits_dataset(shape=(-1, 8, 8))]
    # enlarged to 28 x 28, so that every line below runs
    enlarged = [x if x.ndim == 1 else np.pad(x.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2))) for x in digits]
    return [x if x.ndim == 1 else x.reshape(-1, 784) for x in enlarged]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*EPOCHS, "all"], default="mlp")
    parser.add_argument("--init", choices=INITIALIZERS, default="glorot", help="of the dense layers' weights")
    parser.add_argument("--epochs", type=int, help="default: the original's")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", help="a folder with MNIST's four files (default: $TORCHLAYER_DATA, else a download)")
    parser.add_argument("--out", type=Path, default=Path("out/mnist"))
    parser.add_argument("--checkpoint-seconds", type=float, default=60, help="the time between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--smoke", action="store_true", help="two epochs of few, small, bundled digits: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it
    if args.smoke:
        args.epochs = 2
    W_init = INITIALIZERS[args.init]
    runs = {
        "mlp": lambda: run_layers("mlp", build_mlp, data, args, W_init),
        "dropconnect": lambda: run_layers("dropconnect", build_dropconnect, data, args, W_init),
        "denoise_ae": lambda: run_denoise_ae(data, args, W_init),
        "stacked_denoise_ae": lambda: run_stacked_denoise_ae(data, args, W_init),
        "cnn": lambda: run_cnn(data, args, W_init),
    }

    started, results = time.perf_counter(), {}
    data = [torch.as_tensor(x, device=args.device) for x in load(args)]  # all of it on the device, once
    for name in runs if args.model == "all" else [args.model]:
        tl.utils.set_seed(args.seed)
        results[name] = runs[name]()
    print(f"Total time: {time.perf_counter() - started:.1f}s; pictures, weights and checkpoints are in {args.out}")
    for name, result in results.items():
        print(f"result: {name} " + " ".join(f"{key}={value:.4f}" for key, value in result.items()))


if __name__ == "__main__":
    main()
