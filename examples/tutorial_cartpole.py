"""Balance a pole on a cart: proximal policy optimisation in one loop that can be read at a glance.

Reproduces  what became of TensorLayer's tutorial_cartpole_ac.py: Gymnasium's CartPole-v1, an actor and a critic.
Expect      a mean return of 475, at which the task counts as solved, within a minute on a CPU; 500 is the most.
Run         python examples/tutorial_cartpole.py [--seed 1] [--resume]
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import torchlayer as tl
from torchlayer.rein import Rollout, RunningNorm


class CartPoles:
    """``n`` of them, computed as arrays; they can say how they stand, so that a resumed run goes on with them."""

    def __init__(self, n: int):
        try:
            import gymnasium
        except ImportError:
            raise SystemExit("CartPole is Gymnasium's: pip install gymnasium") from None
        made: Any = gymnasium.make_vec("CartPole-v1", n, vectorization_mode="vector_entry_point")
        self.poles, self.num_envs, self.metadata = made.unwrapped, n, made.metadata
        self.reset, self.step, self.close = made.reset, made.step, made.close

    def state_dict(self) -> dict[str, Any]:
        poles = self.poles
        arrays = {name: torch.tensor(getattr(poles, name)) for name in ("state", "steps", "prev_done")}
        return {**arrays, "draws": poles.np_random.bit_generator.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in ("state", "steps", "prev_done"):
            setattr(self.poles, name, state_dict[name].numpy().copy())
        self.poles.np_random.bit_generator.state = state_dict["draws"]


def build(norm: RunningNorm) -> tl.Network:
    """From a state (N, 4) to the logits of two actions and a value: two towers on normalised states."""
    state = tl.layers.InputLayer((None, 4), name="state")
    state = tl.layers.TorchLayer(state, norm, name="norm")
    ends = []
    for name, n_out, gain in (("actor", 2, 0.01), ("critic", 1, 1.0)):
        net = state
        for i, (n_units, act, scale) in enumerate(((64, torch.tanh, 1.4), (64, torch.tanh, 1.4), (n_out, None, gain))):
            init = {"W_init": torch.nn.init.orthogonal_, "W_init_args": {"gain": scale}}
            net = tl.layers.DenseLayer(net, n_units=n_units, act=act, name=f"{name}{i + 1}", **init)
        ends.append(net)
    return tl.network.join(*ends)


def log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def cost(outputs: tuple[Tensor, Tensor], actions: Tensor, old: Tensor, gains: Tensor, returns: Tensor, mask: Tensor):
    logits, values = outputs
    actor = tl.rein.ppo_loss(log_prob(logits, actions), old, gains, mask=mask)
    return actor + 0.01 * tl.rein.value_loss(values.squeeze(-1), returns, mask=mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60, help="rollouts; each is learnt from in ten passes")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--lr", type=float, default=1e-3, help="in the beginning; it falls to 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="the poles are on the CPU, and the networks small")
    parser.add_argument("--data", help="as in the other tutorials; poles need none")
    parser.add_argument("--out", type=Path, default=Path("out/cartpole"))
    parser.add_argument("--checkpoint-seconds", type=float, default=60, help="the time between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--smoke", action="store_true", help="two short rollouts: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # more would wait for each other in networks so small
    n_envs, n_steps, n_games = (4, 32, 4) if args.smoke else (16, 128, 100)
    n_epoch = 2 if args.smoke else args.epochs

    tl.utils.set_seed(args.seed)
    norm = RunningNorm((4,))
    net = build(norm).to(args.device)
    generator = torch.Generator(args.device).manual_seed(args.seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)
    step = tl.TrainStep(net, optimizer, cost, clip_norm=0.5)

    def act(states: Tensor) -> dict[str, Tensor]:
        logits, values = net(states)
        actions = tl.nlp.sample_logits(logits, rng=generator)
        return {"actions": actions, "log_probs": log_prob(logits, actions), "values": values.squeeze(-1)}

    rollout = Rollout(CartPoles(n_envs), act, n_steps, device=args.device, seed=args.seed)
    norm.update(rollout.collect().observations)
    history: dict[str, list[float]] = {"step": [], "mean_return": []}
    parts: Any = {"model": net, "optimizer": optimizer, "rollout": rollout, "generators": {"draws": generator}}
    saved = {"resume": args.resume, "every_seconds": args.checkpoint_seconds, "extra": history}
    run = tl.Resumable(args.out / "run.ckpt", **parts, **saved)

    with run:
        for epoch in tqdm(run.epochs(n_epoch), "rollouts", initial=run.epoch, total=n_epoch, disable=None):
            optimizer.param_groups[0]["lr"] = args.lr * (1 - (epoch - 1) / n_epoch)
            steps = rollout.collect()
            values, ends = steps.extras["values"], (steps.terminated, steps.truncated)
            assert steps.next_values is not None
            gains, returns = tl.rein.generalized_advantages(steps.rewards, values, steps.next_values, *ends)
            gains = (gains - gains[steps.valid].mean()) / gains[steps.valid].std()
            columns = (steps.observations, steps.actions, steps.extras["log_probs"], gains, returns, steps.valid)
            columns = [column.flatten(0, 1) for column in columns]
            for _ in range(10):
                order = torch.randperm(len(columns[0]), generator=generator, device=args.device)
                batch_size = min(args.batch_size, len(order))
                step.sweep(*(column[order] for column in columns), batch_size=batch_size)
            norm.update(steps.observations, steps.valid)
            ended = steps.episode_returns[~steps.episode_returns.isnan()]
            history["step"].append(epoch * n_envs * n_steps)
            history["mean_return"].append(ended.mean().item())
            if epoch % 10 == 0 or epoch == n_epoch:
                tqdm.write(
                    f"{history['step'][-1]:,} steps, mean return of {len(ended)} episodes {ended.mean().item():.1f}"
                )
    rollout.close()

    games = Rollout(CartPoles(n_games), act, n_steps=100, device=args.device, seed=args.seed + 1000)
    returns = torch.stack([rewards.sum() for rewards in tl.rein.first_episodes(games)])
    games.close()
    tl.visualize.curves(history, name=args.out / "learning_curve.png")
    error = returns.std().item() / math.sqrt(n_games)
    print(f"evaluation: the first episode of {n_games} fresh poles, actions drawn, 500 steps at most")
    print(f"result: cartpole mean_return={returns.mean().item():.4g} error={error:.3g} least={returns.min().item():g}")


if __name__ == "__main__":
    main()
