"""Playing Pong with a convolutional policy: ours, Gymnasium's vector environments in a loop written by hand, the floor.

python benchmarks/rollout.py                    # needs pip install torchlayer[rl] opencv-python-headless
python benchmarks/rollout.py --device cuda --n-envs 64 --n-steps 128

Everybody plays with the same network on (80, 80, 4) pictures, frame skip 4, no sticky actions. The loop by hand keeps
what CleanRL's keeps: observations, actions, log-probabilities, values, rewards and ends in tensors of its own. The
floor is the emulator alone, under actions drawn beforehand. Steps a second of this process's CPU time are there because
a busy neighbour hardly changes them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import torchlayer as tl
from torchlayer.rein import FrameStack, Rollout

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import tutorial_atari_pong as tutorial  # pyright: ignore

N_FRAMES = 4
Play = Callable[[], Any]  # plays n_steps in every environment


def emulator(n: int, size: tuple[int, int] = (80, 80), stack: int = N_FRAMES) -> Any:
    """ALE's vector environment, which scales and stacks in C++ if it is asked to."""
    from ale_py.vector_env import AtariVectorEnv

    native = size == (210, 160)
    return AtariVectorEnv("pong", n, img_height=size[0], img_width=size[1], stack_num=stack, maxpool=not native)


def gymnasiums(kind: str, n: int) -> Any:
    """Gymnasium's wrappers around one emulator each."""
    import ale_py
    import gymnasium
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    def one() -> Any:
        gymnasium.register_envs(ale_py)
        env = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0)
        return FrameStackObservation(AtariPreprocessing(env, noop_max=30, frame_skip=4, screen_size=80), N_FRAMES)

    return getattr(gymnasium.vector, f"{kind}VectorEnv")([one] * n)


def by_hand(envs: Any, policy: tutorial.Policy, n_steps: int, device: torch.device) -> Play:
    """The loop that everybody writes."""
    n = envs.num_envs
    kept = torch.zeros(n_steps, n, N_FRAMES, 80, 80, dtype=torch.uint8, device=device)
    columns = [torch.zeros(n_steps, n, device=device) for _ in range(5)]
    held = [envs.reset(seed=0)[0], np.zeros(n)]

    @torch.no_grad()
    def play() -> None:
        actions_of, log_probs, values_of, rewards_of, ends = columns
        for t in range(n_steps):
            observations = torch.as_tensor(np.asarray(held[0])).to(device)
            kept[t], ends[t] = observations, torch.as_tensor(held[1]).to(device)
            logits, values = policy(observations.permute(0, 2, 3, 1))
            choice = torch.distributions.Categorical(logits=logits, validate_args=False)
            actions = choice.sample()
            actions_of[t], log_probs[t], values_of[t] = actions, choice.log_prob(actions), values
            observations, rewards, terminated, truncated, _ = envs.step((actions + 1).cpu().numpy())
            rewards_of[t] = torch.as_tensor(rewards).to(device)
            held[:] = observations, np.logical_or(terminated, truncated)

    return play


def ours(n_groups: int, n: int, policy: tutorial.Policy, n_steps: int, device: torch.device) -> Play:
    """``tl.rein.Rollout`` over the emulator's own screens, cropped and stacked on the device, as the tutorial does."""
    generator = torch.Generator(device).manual_seed(0)

    def act(observations: Tensor) -> dict[str, Tensor]:
        logits, values = policy(observations)
        choice = tl.nlp.sample_logits(logits, rng=generator)
        log_probs = logits.log_softmax(-1).gather(-1, choice.unsqueeze(-1)).squeeze(-1)
        return {"actions": choice + 1, "log_probs": log_probs, "values": values}

    def group() -> FrameStack:
        return FrameStack(emulator(n // n_groups, (210, 160), 1), N_FRAMES, tutorial.field, device)

    captured: Any = {"capture": True, "generators": [generator]}
    return Rollout([group() for _ in range(n_groups)], act, n_steps, device=device, seed=0, **captured).collect


def alone(envs: Any, n_steps: int) -> Play:
    """The emulator and nothing else."""
    envs.reset(seed=0)
    actions = np.random.default_rng(0).integers(1, 4, (n_steps, envs.num_envs))
    return lambda: [envs.step(row) for row in actions]


def main() -> None:
    parser = argparse.ArgumentParser(description="Steps a second of Pong.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--n-envs", type=int, default=16)
    parser.add_argument("--n-steps", type=int, default=64, help="of each environment, in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without", nargs="*", default=[], help="leave out whoever has one of these in the name")
    args = parser.parse_args()
    device, n, n_steps = torch.device(args.device), args.n_envs, args.n_steps

    torch.manual_seed(0)
    policy = tutorial.Agent((80, 80, N_FRAMES)).to(device).policy
    makers: dict[str, Callable[[], Play]] = {
        "torchlayer, two groups": lambda: ours(2, n, policy, n_steps, device),
        "torchlayer, one group": lambda: ours(1, n, policy, n_steps, device),
        "by hand, AtariVectorEnv": lambda: by_hand(emulator(n), policy, n_steps, device),
        "by hand, AsyncVectorEnv + AtariPreprocessing": lambda: by_hand(
            gymnasiums("Async", n), policy, n_steps, device
        ),
        "by hand, SyncVectorEnv + AtariPreprocessing": lambda: by_hand(gymnasiums("Sync", n), policy, n_steps, device),
        "emulator alone, its screen": lambda: alone(emulator(n, (210, 160), 1), n_steps),
        "emulator alone, 80 x 80 x 4": lambda: alone(emulator(n), n_steps),
    }
    plays: dict[str, Play] = {}
    for name, make in makers.items():
        if any(part in name for part in args.without):
            continue
        try:
            plays[name] = make()
            plays[name]()  # to warm up
        except ImportError as error:
            print(f"{name}: {error}; pip install torchlayer[rl] opencv-python-headless")
    seconds: dict[str, list[float]] = {name: [] for name in plays}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in plays}
    for _ in range(args.rounds):  # in turn, so that a busy minute is everybody's
        for name, play in plays.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            play()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
            cpu_seconds[name].append(time.process_time() - cpu_started)
    print(
        f"{device}, {torch.get_num_threads()} threads, {n} environments, {n_steps} steps each in a round, "
        f"torch {torch.__version__}"
    )
    print(f"{'':<46}{'steps/s':>10}{'frames/s':>10}{'a CPU second':>14}{'x Sync':>8}{'from':>7}{'to':>7}")
    reference = seconds.get("by hand, SyncVectorEnv + AtariPreprocessing")
    for name, taken in seconds.items():
        speed = n * n_steps / statistics.median(taken)
        cpu_speed = n * n_steps / statistics.median(cpu_seconds[name])
        cpu = "-" if "Async" in name else f"{cpu_speed:,.0f}"  # its processes' time is not ours
        row = f"{name:<46}{speed:>10,.0f}{4 * speed:>10,.0f}{cpu:>14}"
        if reference:
            ratios = [theirs / own for theirs, own in zip(reference, taken)]
            row += f"{statistics.median(ratios):>8.2f}{min(ratios):>7.2f}{max(ratios):>7.2f}"
        print(row)


if __name__ == "__main__":
    main()
