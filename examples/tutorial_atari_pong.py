"""Pong from pixels: the tutorial page's policy gradient, and an actor-critic that learns it from far fewer games.

Reproduces  tutorial_atari_pong.py of TensorLayer 1.3 (Karpathy 2016, karpathy.github.io/2016/05/31/rl):
              tensorlayer  6400-200-3, REINFORCE, 10 episodes a batch, RMSProp 1e-4 as TensorFlow began it
            and, with what was learnt since:
              fast         convolutions, an actor and a critic, PPO (arXiv:1707.06347), normalised inputs and values
Expect      tensorlayer: 20 % of the points after 15,000 episodes, 35 % after 20,000, half after 30,000 (the page's);
            ours, and what fast reaches, are in examples/README.md. --env catch: 90 % of the balls within a minute.
Run         python examples/tutorial_atari_pong.py --model fast --minutes 20      # and then again with --resume
            python examples/tutorial_atari_pong.py --env catch --minutes 1        # needs no emulator
            python examples/tutorial_atari_pong.py --model tensorlayer --render   # saves a game as a GIF in the end
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import torchlayer as tl
from torchlayer.files.atomic import atomic_write
from torchlayer.rein import Catch, Episodes, FrameStack, Rollout, RunningNorm, Steps

GAMMA = 0.99
ENTROPY, LOWEST, HIGHEST = 0.01, 1e-5, 2e-3  # the latter of the rate
Policy = Callable[[Tensor], tuple[Tensor, Tensor]]  # observations -> logits (n, 3), values (n,)

# The games -----------------------------------------------------------------------

# Of Atari's actions the page takes FIRE, which moves nothing in Pong, RIGHT, which is up, and LEFT.
FIRST_ACTION = {"pong": 1, "catch": 0}
BACKGROUND = (87, 107)  # in the emulator's grey; the page erases the same pixels by their red, 144 and 109


def field(screen: Tensor) -> Tensor:
    """The page's crop, every second pixel: ``(N, 1, 210, 160) -> (N, 80, 80)``. Catch is small as it is."""
    return screen[:, 0, 35:195:2, ::2] if screen.dim() == 4 else screen


def bitmap(screen: Tensor) -> Tensor:
    """1 where bats and ball are, in int8: differences of these are -1, 0 and 1."""
    grey = field(screen)
    lit = (grey != BACKGROUND[0]) & (grey != BACKGROUND[1]) if screen.dim() == 4 else grey != 0
    return lit.to(torch.int8)


def screens(args: argparse.Namespace, n_envs: int, grey: bool = True) -> Any:
    """The game as it is: a vector environment."""
    if args.env == "catch":
        return Catch(n_envs, device=args.device)
    try:
        from ale_py.vector_env import AtariVectorEnv
    except ImportError:
        raise SystemExit("Pong needs the emulator: pip install torchlayer[rl]; --env catch needs nothing") from None
    # The screen in its own size costs the emulator least, and cropping it on the device next to nothing.
    rules = {"frameskip": args.frame_skip, "repeat_action_probability": args.sticky, "noop_max": 30, "maxpool": False}
    return AtariVectorEnv("pong", n_envs, img_height=210, img_width=160, stack_num=1, grayscale=grey, **rules)


def games(args: argparse.Namespace, n_envs: int) -> FrameStack:
    """What a model sees of it: the last two pictures, grey ones or the page's bitmaps."""
    return FrameStack(screens(args, n_envs), 2, bitmap if args.model == "tensorlayer" else field, args.device)


def player(args: argparse.Namespace, policy: Policy, generator: torch.Generator | None) -> Any:
    """Draws from the policy's probabilities, or without a generator takes the likeliest action."""

    def act(observations: Tensor) -> dict[str, Tensor]:
        logits, values = policy(observations)
        choice = logits.argmax(-1) if generator is None else tl.nlp.sample_logits(logits, rng=generator)
        log_probs = logits.log_softmax(-1).gather(-1, choice.unsqueeze(-1)).squeeze(-1)
        actions = choice + FIRST_ACTION[args.env]
        return {"actions": actions, "choice": choice, "log_probs": log_probs, "values": values}

    return act


def rollout(args: argparse.Namespace, policy: Policy, generator: torch.Generator | None, n: int, seed: int) -> Rollout:
    """A player at ``n`` games."""
    act = player(args, policy, generator)
    n_groups = math.gcd(n, args.groups) if args.env == "pong" else 1  # the policy looks at one, others are emulated
    groups = [games(args, n // n_groups) for _ in range(n_groups)]
    settings: Any = {"device": args.device, "seed": seed, "timeout": args.timeout, "name": args.env}
    drawn_from = [] if generator is None else [generator]
    return Rollout(groups, act, args.n_steps, **settings, capture=True, generators=drawn_from)


# fast: an actor and a critic, PPO ------------------------------------------------


class Agent(nn.Module):
    """Mnih et al. 2016's network (arXiv:1602.01783), with normalised inputs and values as in rl_games."""

    def __init__(self, shape: tuple[int, ...], width: int = 1):
        super().__init__()
        self.inputs, self.values = RunningNorm(shape), RunningNorm(())
        relu = {"act": torch.relu, "W_init": nn.init.orthogonal_, "W_init_args": {"gain": math.sqrt(2)}}
        (size1, stride1), (size2, stride2) = ((8, 4), (4, 2)) if shape[0] > 40 else ((4, 2), (3, 2))
        net = tl.layers.InputLayer((None, *shape), name="frames")
        net = tl.layers.Conv2d(net, 16 * width, size1, stride1, padding="VALID", name="conv1", **relu)
        net = tl.layers.Conv2d(net, 32 * width, size2, stride2, padding="VALID", name="conv2", **relu)
        net = tl.layers.FlattenLayer(net, name="flatten")
        net = tl.layers.DenseLayer(net, 256 * width, name="hidden", **relu)
        actor = tl.layers.DenseLayer(net, 3, W_init=nn.init.orthogonal_, W_init_args={"gain": 0.01}, name="actor")
        critic = tl.layers.DenseLayer(net, 1, W_init=nn.init.orthogonal_, name="critic")
        self.network = tl.network.join(actor, critic)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and values in the units of ``self.values``."""
        logits, values = self.network(self.inputs(frames))
        return logits.float(), values.squeeze(-1).float()

    def policy(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        logits, values = self(frames)
        return logits, self.values.undo(values)


class Loss(nn.Module):
    """What a batch of the last rollout costs. Observations are looked up where the rollout keeps them, so the whole
    update, all of its passes and batches, is one captured sweep on a GPU."""

    def __init__(self, agent: Agent, observations: Tensor):
        super().__init__()
        self.agent, self.observations = agent, observations.flatten(0, 1)
        self.kl = torch.zeros((), device=observations.device)  # summed over batches
        self.spread = torch.full((), ENTROPY, device=observations.device)  # what an action's entropy is worth

    def forward(self, rows: Tensor, choice: Tensor, old: Tensor, gain: Tensor, goal: Tensor, was: Tensor, mask: Tensor):
        logits, values = self.agent(self.observations.index_select(0, rows))
        log_probs = logits.log_softmax(-1)
        new = log_probs.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
        actor = tl.rein.ppo_loss(new, old, gain, clip=0.2, mask=mask)
        critic = tl.rein.value_loss(values, goal, old_values=was, clip=0.2, mask=mask)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        with torch.no_grad():
            self.kl += (((new - old).exp() - 1 - (new - old)) * mask).mean()  # joschu.net/blog/kl-approx.html
        return actor + critic - self.spread * (entropy * mask).mean()


class Fast:
    """PPO: play, then four passes over what was played. The rate follows how far each update moved the policy."""

    def __init__(self, args: argparse.Namespace):
        self.agent = Agent((20, 20, 2) if args.env == "catch" else (80, 80, 2), args.width).to(args.device)
        self.policy = self.agent.policy
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=args.lr or 5e-4, eps=1e-5)
        seeds = {"draws": args.seed, "order": args.seed + 1}
        self.generators = {name: torch.Generator(args.device).manual_seed(seed) for name, seed in seeds.items()}
        self.rollout = rollout(args, self.policy, self.generators["draws"], args.n_envs, args.seed)
        observations = self.rollout.collect().observations
        self.agent.inputs.update(observations)  # what screens look like, before it matters
        self.loss = Loss(self.agent, observations)
        autocast = torch.bfloat16 if args.precision == "bf16" else None
        self.train = tl.TrainStep(self.loss, self.optimizer, clip_norm=1.0, autocast=autocast)
        self.batch_size = args.batch_size or len(self.loss.observations) // 4
        self.parts = {"model": self.agent, "optimizer": self.optimizer, "rollout": self.rollout}

    def advance(self, left: float = 1.0) -> tuple[Steps, str]:
        steps = self.rollout.collect()
        values, valid, ends = steps.extras["values"], steps.valid, (steps.terminated, steps.truncated)
        assert steps.next_values is not None
        gains, returns = tl.rein.generalized_advantages(steps.rewards, values, steps.next_values, *ends, gamma=GAMMA)
        self.agent.inputs.update(steps.observations[:, ::8])  # its neighbours look alike
        self.agent.values.update(returns, valid)
        gains = (gains - gains[valid].mean()) / (gains[valid].std() + 1e-8)
        norm, played = self.agent.values, (steps.extras["choice"], steps.extras["log_probs"])
        columns = [column.flatten() for column in (*played, gains, norm(returns), norm(values), valid)]
        n_rows, order = len(columns[0]), self.generators["order"]
        n_used = n_rows // self.batch_size * self.batch_size
        rows = torch.cat([torch.randperm(n_rows, generator=order, device=order.device)[:n_used] for _ in range(4)])
        self.loss.kl.zero_()
        self.loss.spread.fill_(ENTROPY * left)
        losses = self.train.sweep((rows, *(column[rows] for column in columns)), batch_size=self.batch_size)
        kl, group = float(self.loss.kl) / len(losses), self.optimizer.param_groups[0]
        if not 0.005 < kl < 0.02:  # rl_games' rule
            group["lr"] *= 1 / 1.5 if kl > 0.02 else 1.5
        group["lr"] = min(max(group["lr"], LOWEST), max(LOWEST, HIGHEST * left**2))
        return steps, f", KL {kl:.4f}, rate {group['lr']:.1e}"


# tensorlayer: the page's REINFORCE -----------------------------------------------


class Page:
    """The page's model and regime, with many games at once. Whenever ten episodes have ended, in the order of their
    ends, they are a batch; games that are in the middle go on under the new weights."""

    def __init__(self, args: argparse.Namespace):
        net = tl.layers.InputLayer((None, 400 if args.env == "catch" else 6400), name="input_layer")
        net = tl.layers.DenseLayer(net, n_units=200, act=torch.relu, name="relu1")
        self.net = tl.layers.DenseLayer(net, n_units=3, name="output_layer").to(args.device)
        self.optimizer = tl.optim.TensorFlowRMSprop(self.net.parameters(), lr=args.lr or 1e-4, decay=0.99)
        self.generators = {"draws": torch.Generator(args.device).manual_seed(args.seed)}
        self.rollout = rollout(args, self.policy, self.generators["draws"], args.n_envs, args.seed)
        self.episodes = Episodes(self.rollout.n_envs, args.device)
        self.batch_size, self.game, self.began = args.batch_size or 10, 0, time.perf_counter()
        # Pong's games cannot be gone on with, so their beginnings are of no use
        unfinished: dict[str, Any] = {"episodes": self.episodes} if args.env == "catch" else {}
        self.parts = {"model": self.net, "optimizer": self.optimizer, "rollout": self.rollout, **unfinished}

    def policy(self, bitmaps: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(difference(bitmaps).float())
        return logits, torch.zeros_like(logits[:, 0])  # the page has no idea of a value

    def advance(self, left: float = 1.0) -> tuple[Steps, str]:
        steps = self.rollout.collect()
        frames = difference(steps.observations.flatten(0, 1)).unflatten(0, steps.actions.shape)
        self.episodes.add(steps, frames, steps.extras["choice"], steps.rewards)
        while len(self.episodes.ended) >= self.batch_size:
            tqdm.write("batch over...... updating parameters......")
            self.learn(*map(torch.cat, zip(*self.episodes.ended[: self.batch_size])))
            del self.episodes.ended[: self.batch_size]
        return steps, ""

    def learn(self, frames: Tensor, choices: Tensor, rewards: Tensor) -> None:
        """One update from ten whole episodes, one after the other; each of them ends with a point."""
        worth = tl.rein.discount_episode_rewards(rewards, GAMMA)
        worth = (worth - worth.mean()) / worth.std(correction=0).clamp(min=1e-8)
        self.optimizer.zero_grad()
        for x, y, weights in zip(frames.split(4096), choices.split(4096), worth.split(4096)):  # memory for 4096
            tl.rein.cross_entropy_reward_loss(self.net(x.float()), y, weights).backward()
        self.optimizer.step()

    def tell(self, steps: Steps, score: "Score", seconds: float) -> None:
        """The page's lines, of the first of the games; those of all would be hundreds a second."""
        times = np.linspace(time.perf_counter() - seconds, time.perf_counter(), steps.rewards.shape[1])
        for now, reward, total in zip(times, steps.rewards[0].tolist(), steps.episode_returns[0].tolist()):
            if reward:
                won = " !!!!!!!!" if reward > 0 else ""
                game = f"episode {score.n_episodes}: game {self.game} took {now - self.began:.5f}s"
                tqdm.write(f"{game}, reward: {reward:f}{won}")
                self.game, self.began = self.game + 1, now
            if not math.isnan(total):
                self.game, ended = 0, f"resetting env. episode reward total was {total:f}"
                tqdm.write(f"{ended}. running mean: {score.running_mean:f}")


def difference(bitmaps: Tensor) -> Tensor:
    """``(n, H, W, 2) -> (n, H * W)``: what moved; nothing in an episode's first frame."""
    return (bitmaps[..., 1] - bitmaps[..., 0]).flatten(1)


# Training and measuring ----------------------------------------------------------


class Score:
    """What the games so far came to."""

    def __init__(self) -> None:
        self.n_updates = self.n_steps = self.n_episodes = 0
        self.seconds, self.running_mean, self.mean = 0.0, math.nan, math.nan
        self.last: list[float] = []  # the returns of the last 100 episodes
        self.history: dict[str, list[float]] = {"step": [], "seconds": [], "mean_return": [], "points_won": []}

    def add(self, steps: Steps, seconds: float) -> None:
        self.n_updates, self.n_steps = self.n_updates + 1, self.n_steps + int(steps.valid.sum())
        self.seconds += seconds
        returns = steps.episode_returns.T  # in the order of their ends
        for value in returns[~returns.isnan()].tolist():
            self.n_episodes, self.last = self.n_episodes + 1, [*self.last[-99:], value]
            self.running_mean = value if self.n_episodes == 1 else 0.99 * self.running_mean + 0.01 * value
            self.mean = sum(self.last) / len(self.last)
        share = ((steps.rewards > 0).sum() / (steps.rewards != 0).sum()).item()  # NaN without a point
        for key, value in zip(self.history, (self.n_steps, self.seconds, self.mean, share)):
            self.history[key].append(value)

    def seconds_to(self, goal: float) -> float:
        """When the mean return of 100 episodes first came to ``goal``; NaN if it never did."""
        reached = zip(self.history["seconds"], self.history["mean_return"])
        return next((seconds for seconds, mean in reached if mean >= goal), math.nan)


def train(model: Fast | Page, args: argparse.Namespace, path: Path) -> Score:
    """Until the goal is reached, or updates, minutes or your patience are over; each end leaves a checkpoint."""
    score = Score()
    saved = {"resume": args.resume, "every_seconds": args.checkpoint_seconds, "extra": vars(score)}
    run = tl.Resumable(path, generators=model.generators, **model.parts, **saved)
    if score.n_updates:
        print(f"going on after {score.n_updates} updates, {score.n_steps:,} steps")
    started = told = time.perf_counter()
    bar = tqdm(unit=" frames", unit_scale=True, disable=None, initial=score.n_steps * args.frame_skip)
    with run, bar:
        while score.n_updates < args.epochs:
            begun, before = time.perf_counter(), score.n_steps
            left = max(0.0, 1 - score.seconds / (60 * args.anneal))
            steps, more = model.advance(left)
            now = time.perf_counter()
            score.add(steps, now - begun)
            n_frames = (score.n_steps - before) * args.frame_skip
            bar.set_postfix_str(f"mean return {score.mean:.2f}", refresh=False)
            bar.update(n_frames)
            if isinstance(model, Page):
                model.tell(steps, score, now - begun)
            if now - told > 10 or score.n_updates == args.epochs:
                played = f"update {score.n_updates}: {score.n_steps:,} steps, {score.n_episodes} episodes, mean return"
                speed = f"{n_frames / (now - begun):,.0f} frames/s{more}"
                tqdm.write(f"{played} of the last {len(score.last)} {score.mean:.2f}, {speed}")
                told = now
            if now - started > 60 * args.minutes or (len(score.last) == 100 and score.mean >= args.until):
                break
            run.tick(score.n_updates)
        run.save(score.n_updates)
    if not all(map(math.isnan, score.history["points_won"])):
        tl.visualize.curves(score.history, name=path.with_name(f"{path.stem}_curve.png"))
    return score


def evaluate(model: Fast | Page, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """One whole game in each of ``--games`` fresh environments, with drawn actions and with the likeliest ones."""
    generator, seed = torch.Generator(args.device).manual_seed(args.seed + 1000), args.seed + 1000
    playing = rollout(args, model.policy, generator, args.games, seed)
    for name in ("drawn", "likeliest"):
        if name == "likeliest":
            playing.set_act(player(args, model.policy, None))
            playing.reset(seed)
        rewards = tl.rein.first_episodes(playing)
        returns, points = torch.stack([game.sum() for game in rewards]), torch.cat(rewards)
        error = returns.std(correction=min(1, len(returns) - 1)) / math.sqrt(len(returns))
        won = (points > 0).sum() / (points != 0).sum()
        yield name, {"return": returns.mean().item(), "error": error.item(), "points_won": won.item()}
    playing.close()


def film(model: Fast | Page, args: argparse.Namespace) -> Path:
    """Half a minute as a GIF: played twice with one seed, once in grey for the policy and once in colour for you."""
    from PIL import Image  # matplotlib needs it, too

    generator, seed = torch.Generator(args.device).manual_seed(args.seed + 2000), args.seed + 2000
    playing, shown = rollout(args, model.policy, generator, 1, seed), screens(args, 1, grey=False)
    screen, _ = shown.reset(seed=seed)
    pictures = []
    for action in torch.cat([playing.collect().actions[0].clone() for _ in range(512 // args.n_steps)]):
        picture = screen[0].cpu().numpy().repeat(8, 0).repeat(8, 1) if args.env == "catch" else screen[0, 0]
        pictures.append(Image.fromarray(np.array(picture)))
        screen, *_ = shown.step(action.view(1) if args.env == "catch" else action.view(1).cpu().numpy())
    playing.close()
    path = args.out / f"{args.env}_{args.model}.gif"
    with atomic_write(path) as file:
        pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=1000 * args.frame_skip // 60)
    return path


def run(args: argparse.Namespace, path: Path) -> dict[str, float]:
    model = Page(args) if args.model == "tensorlayer" else Fast(args)
    score = train(model, args, path)
    model.rollout.close()
    figures = {key: vars(score)[key] for key in ("n_episodes", "n_steps", "seconds", "running_mean", "mean")}
    if args.env == "pong":
        figures["seconds_to_18"] = score.seconds_to(18)
    if args.games:  # what a result is worth depends on this, so it stands beside every one
        rules = f"up to 30 idle frames first, sticky actions {args.sticky:g}, frame skip {args.frame_skip}, 3 actions"
        game = f"Pong to 21, {rules}" if args.env == "pong" else "10 balls of Catch, which is ours and not Atari's"
        print(f"evaluation: {args.games} whole games of {game}; fresh seeds")
    for name, found in evaluate(model, args) if args.games else ():
        print(f"{name}: " + " ".join(f"{key}={value:.3f}" for key, value in found.items()))
        figures |= {f"{name}_{key}": value for key, value in found.items()}
    if args.render:
        print(f"a game is in {film(model, args)}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("fast", "tensorlayer"), default="fast")
    parser.add_argument("--env", choices=("pong", "catch"), default="pong", help="catch needs no emulator")
    parser.add_argument("--sticky", type=float, default=0.0, help="probability that Pong repeats the last action")
    parser.add_argument("--frame-skip", type=int, default=4)
    parser.add_argument("--n-envs", type=int, help="games side by side; default: 64 (tensorlayer 128), on a CPU 32")
    parser.add_argument("--groups", type=int, default=2, help="of Pong's games, each with a thread; divides them")
    parser.add_argument("--n-steps", type=int, default=64, help="of each game, between updates")
    parser.add_argument("--epochs", type=int, default=10**9, help="stop after so many rollouts")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many minutes of training")
    parser.add_argument("--until", type=float, default=math.inf, help="stop at this mean return of 100 episodes")
    parser.add_argument("--anneal", type=float, default=math.inf, help="fast: minutes until rate and entropy are 0")
    parser.add_argument("--width", type=int, default=1, help="fast: times as many channels and units")
    parser.add_argument("--batch-size", type=int, help="steps, default a quarter of a rollout; tensorlayer: 10 games")
    parser.add_argument("--lr", type=float, help="default: 5e-4 in the beginning (fast), 1e-4 (tensorlayer)")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="tf32", help="of products on a GPU")
    parser.add_argument("--games", type=int, default=20, help="to evaluate with; 0 does not")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", help="as in the other tutorials; games need none")
    parser.add_argument("--out", type=Path, default=Path("out/pong"))
    parser.add_argument("--checkpoint-seconds", type=float, default=60, help="the time between two checkpoints")
    parser.add_argument("--timeout", type=float, default=60, help="seconds until a silent emulator is given up")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--render", action="store_true", help="save a game as a GIF")
    parser.add_argument("--smoke", action="store_true", help="Catch, four rollouts: does it run?")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.groups < 1:
        parser.error(f"--groups must be 1 or more, got {args.groups}")
    if args.smoke:
        args.env, args.n_envs, args.epochs, args.games = "catch", args.n_envs or 8, min(args.epochs, 4), 4
    if args.env == "catch":
        torch.set_num_threads(1)  # a network so small gains nothing from threads, which wait for each other
    many = 128 if args.model == "tensorlayer" else 64  # whose network is so small that the emulator is all there is
    args.n_envs = args.n_envs or (many if args.device.startswith("cuda") else 32)
    torch.set_float32_matmul_precision("highest" if args.precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = args.precision != "fp32"
    tl.utils.set_seed(args.seed)

    path = args.out / f"{args.env}_{args.model}.ckpt"
    try:
        figures = run(args, path)
    except tl.rein.BrokenEnvironment as error:
        kept = f"the last checkpoint is kept in {path}, and --resume goes on from there"
        raise SystemExit(f"{error}; {kept if path.exists() else 'no checkpoint was saved yet'}") from error
    print(f"{figures['n_steps'] * args.frame_skip:,} frames were played; curve and checkpoint are in {args.out}")
    print(f"result: {args.env}_{args.model} " + " ".join(f"{key}={value:.6g}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
