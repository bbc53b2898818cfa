"""Rollouts: the three ways to begin an episode anew end in the same steps; what breaks is named."""

import copy
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import torchlayer as tl
from torchlayer.rein import (
    BrokenEnvironment,
    Catch,
    Episodes,
    FrameStack,
    Rollout,
    first_episodes,
    generalized_advantages,
)
from torchlayer.rein.environments import DISABLED, NEXT_STEP, SAME_STEP, autoreset_mode

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NEEDED = "needs gymnasium: pip install torchlayer[rl]"
MODES = [NEXT_STEP, SAME_STEP, DISABLED]


class Walk:
    """Environment ``i`` has episodes of ``3 + i`` steps, every other one of them cut off. It tells where it is.

    An observation is ``(episode, steps taken)``, a reward the number of steps taken. ``tensors`` says of what kind.
    """

    def __init__(self, num_envs, mode, tensors=False):
        self.num_envs, self.autoreset_mode, self.tensors = num_envs, mode, tensors
        self.actions = []

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask")
        if mask is None:
            self.episode, self.taken = np.zeros(self.num_envs, int), np.zeros(self.num_envs, int)
            self.over = np.zeros(self.num_envs, bool)
        else:
            self._begin(np.asarray(mask))
        return self._out(self._seen()), {}

    def step(self, actions):
        assert isinstance(actions, torch.Tensor if self.tensors else np.ndarray)
        self.actions.append(np.asarray(actions))
        begins = self.over if self.autoreset_mode == NEXT_STEP else np.zeros(self.num_envs, bool)
        self.taken = self.taken + ~begins
        rewards = np.where(begins, 0, self.taken)
        last = (self.taken == 3 + np.arange(self.num_envs)) & ~begins
        terminated, truncated = last & (self.episode % 2 == 0), last & (self.episode % 2 == 1)
        infos = {}
        if self.autoreset_mode == SAME_STEP and last.any():
            infos["final_obs"] = self._out(self._seen())
            self._begin(last)
        self._begin(begins)
        self.over = last
        return *map(self._out, (self._seen(), rewards, terminated, truncated)), infos

    def close(self):
        self.closed = True

    def _begin(self, mask):
        self.episode, self.taken = self.episode + mask, np.where(mask, 0, self.taken)

    def _seen(self):
        return np.stack((self.episode, self.taken), 1).astype(np.float32)

    def _out(self, array):
        return torch.as_tensor(array) if self.tensors else array


def act(observations):
    values = 100 * observations[:, 0] + observations[:, 1]
    return {"actions": observations[:, 1].long(), "values": values}


def by_hand(n, n_steps):
    """Environment ``n`` of Walk, step by step and without resets: observations, rewards, values of what came next."""
    seen, rewards, follow, terminated, truncated = [], [], [], [], []
    episode = taken = 0
    while len(seen) < n_steps:
        seen.append((episode, taken))
        taken += 1
        rewards.append(taken)
        follow.append(100 * episode + taken)
        ended = taken == 3 + n
        terminated.append(ended and episode % 2 == 0)
        truncated.append(ended and episode % 2 == 1)
        if ended:
            episode, taken = episode + 1, 0
    return [np.array(column) for column in (seen, rewards, follow, terminated, truncated)]


def kept(steps, row):
    """The valid steps of a row: observations, rewards, next values where there is a next, both ends, advantages."""
    ends = (steps.terminated, steps.truncated)
    advantages, _ = generalized_advantages(steps.rewards, steps.extras["values"], steps.next_values, *ends)
    follow = steps.next_values.masked_fill(steps.terminated, 0)
    return [x[row][steps.valid[row]].numpy() for x in (steps.observations, steps.rewards, follow, *ends, advantages)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tensors", [False, True], ids=["arrays", "tensors"])
@pytest.mark.parametrize("n_groups", [1, 2])
def test_steps_and_advantages_are_those_of_a_loop_without_resets(mode, tensors, n_groups):
    rollout = Rollout([Walk(4, mode, tensors) for _ in range(n_groups)], act, n_steps=9)
    for _ in range(3):  # episodes go on from one rollout to the next
        steps = rollout.collect()
    for row in range(4 * n_groups):
        *found, advantages = kept(steps, row)
        columns = by_hand(row % 4, 200)
        (at,) = np.flatnonzero((columns[0] == found[0][0]).all(1))  # where this rollout begins
        seen, rewards, follow, terminated, truncated = (column[at : at + len(advantages)] for column in columns)
        for ours, expected in zip(found, (seen, rewards, follow * ~terminated, terminated, truncated)):
            np.testing.assert_array_equal(ours, expected)
        values, following = seen @ [100, 1], 0.0
        for t in reversed(range(len(values))):
            error = rewards[t] + 0.99 * follow[t] * (not terminated[t]) - values[t]
            following = error + 0.99 * 0.95 * (not (terminated[t] or truncated[t])) * following
            assert advantages[t] == pytest.approx(following, rel=1e-4, abs=1e-3)  # of values up to 1000


@pytest.mark.parametrize("mode", MODES)
def test_only_a_reset_that_takes_a_step_is_not_valid(mode):
    rollout = Rollout(Walk(2, mode), act, n_steps=10)
    first, second = (rollout.collect().valid.clone() for _ in range(2))
    valid = torch.cat((first, second), 1)
    if mode != NEXT_STEP:
        assert valid.all()
        return
    assert (~valid[0]).nonzero().flatten().tolist() == [3, 7, 11, 15, 19]  # three steps and a reset
    assert (~valid[1]).nonzero().flatten().tolist() == [4, 9, 14, 19]


@pytest.mark.parametrize("mode", MODES)
def test_returns_of_episodes_that_span_rollouts(mode):
    rollout = Rollout(Walk(3, mode), act, n_steps=4)
    returns = torch.cat([rollout.collect().episode_returns for _ in range(8)], 1)
    for n, total in enumerate((1 + 2 + 3, 1 + 2 + 3 + 4, 15)):
        found = returns[n][~returns[n].isnan()]
        assert len(found) >= 5
        assert (found == total).all()


def test_actions_arrive_where_they_belong_and_groups_keep_apart():
    groups = [Walk(2, NEXT_STEP), Walk(3, NEXT_STEP, tensors=True)]
    steps = Rollout(groups, act, n_steps=5).collect()
    assert np.array_equal(np.stack(groups[0].actions, 1), steps.actions[:2])
    assert np.array_equal(np.stack(groups[1].actions, 1), steps.actions[2:])


def test_the_next_rollout_writes_where_the_last_one_was():
    rollout = Rollout(Walk(2, NEXT_STEP), act, n_steps=5)
    first = rollout.collect()
    assert rollout.collect().observations.data_ptr() == first.observations.data_ptr()


def test_a_policy_without_values_is_fine():
    steps = Rollout(Walk(2, SAME_STEP), lambda x: {"actions": x[:, 0].long()}, n_steps=9).collect()
    assert steps.next_values is None
    assert steps.extras == {}


def test_closing_closes_the_environments():
    groups = [Walk(2, NEXT_STEP), Walk(2, NEXT_STEP)]
    Rollout(groups, act, n_steps=2).close()
    assert all(group.closed for group in groups)


# Gymnasium's own -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mode"), [("vector_entry_point", NEXT_STEP), ("sync", NEXT_STEP), ("sync", SAME_STEP), ("sync", DISABLED)]
)
def test_gymnasiums_cart_pole_in_every_mode(kind, mode):
    gymnasium = pytest.importorskip("gymnasium", reason=NEEDED)
    options = {"autoreset_mode": gymnasium.vector.AutoresetMode(mode)} if kind == "sync" else None
    environments = gymnasium.make_vec(
        "CartPole-v1", 3, vectorization_mode=kind, vector_kwargs=options, max_episode_steps=20
    )
    generator = torch.Generator().manual_seed(0)

    def policy(observations):
        actions = torch.randint(2, (len(observations),), generator=generator)
        return {"actions": actions, "values": observations.sum(-1)}

    rollout = Rollout(environments, policy, n_steps=60, seed=0)
    steps = rollout.collect()
    ended = steps.terminated | steps.truncated
    assert steps.terminated.any()
    assert steps.truncated.any()
    later = 2 if mode == NEXT_STEP else 1  # so long after an end is the first observation of the next episode
    begun = torch.zeros_like(ended)
    begun[:, later:] = ended[:, :-later]
    assert (steps.observations[begun].abs() < 0.05).all()  # where CartPole begins
    assert (steps.valid == (~torch.cat((ended[:, :1] & False, ended[:, :-1]), 1) | (mode != NEXT_STEP))).all()
    # A pole that was cut off was last seen somewhere else than where the next one begins.
    inside = steps.truncated.clone()
    inside[:, -1] = False
    first = steps.extras["values"].roll(-later, 1)
    assert (steps.next_values[inside] != first[inside]).all()
    lengths = [int(n) for n in steps.episode_returns[~steps.episode_returns.isnan()]]  # a reward of 1 a step
    assert all(5 < n <= 20 for n in lengths)
    assert len(set(lengths)) > 2
    rollout.close()


def test_the_mode_is_asked_of_the_object_and_not_of_its_class():
    class Shared:  # as AtariVectorEnv leaves it behind
        metadata = {"autoreset_mode": SAME_STEP}  # noqa: RUF012
        autoreset_mode: object = SimpleNamespace(value=NEXT_STEP)

    assert autoreset_mode(Shared()) == NEXT_STEP
    del Shared.autoreset_mode
    assert autoreset_mode(Shared()) == SAME_STEP
    Shared.metadata = {}
    with pytest.raises(ValueError, match="Shared does not say when it begins the next episode"):
        autoreset_mode(Shared())


# What breaks ---------------------------------------------------------------------


class Broken(Walk):
    """Works for two steps, and then does as it was told."""

    def __init__(self, how):
        super().__init__(2, NEXT_STEP)
        self.how, self.n_steps = how, 0

    def step(self, actions):
        self.n_steps += 1
        found = super().step(actions)
        return self.how(found) if self.n_steps == 3 else found


def hang(found):
    time.sleep(3600)


def fail(found):
    raise OSError("the emulator is gone")


@pytest.mark.parametrize(
    ("how", "text"),
    [
        (hang, "environment 'pong' has not answered call 4 for 0.3 seconds"),
        (fail, "environment 'pong' raised OSError in call 4: the emulator is gone"),
        (lambda found: found[:4], "environment 'pong' raised ValueError in call 4: not enough values to unpack"),
        (lambda found: (found[0], found[1][:1], *found[2:]), r"2 environments returned rewards and ends of \[\(1,\), "),
        (lambda found: (found[0], found[1] * np.nan, *found[2:]), "a reward is not finite"),
    ],
    ids=["hangs", "raises", "returns too little", "loses a reward", "returns NaN"],
)
def test_a_broken_environment_is_named(how, text):
    rollout = Rollout(Broken(how), act, n_steps=5, timeout=0.3 if how is hang else 60.0, name="pong")
    with pytest.raises(BrokenEnvironment, match=text):
        rollout.collect()


def test_of_several_groups_the_broken_one_is_named():
    rollout = Rollout([Walk(2, NEXT_STEP), Broken(fail)], act, n_steps=5)
    with pytest.raises(BrokenEnvironment, match="environment 'Broken 2 of 2' raised"):
        rollout.collect()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda x: x[:, 0], r"act must return a dict with integer 'actions' of shape \(2,\)"),
        (lambda x: {"actions": x}, r"got \(2, 2\) of torch.float32"),
        (lambda x: {"actions": x[:, 0]}, r"got \(2,\) of torch.float32"),
        (lambda x: {"action": x[:, 0].long()}, r"got \{'action': tensor"),
    ],
)
def test_an_act_that_returns_something_else_is_told(answer, text):
    with pytest.raises(ValueError, match=text):
        Rollout(Walk(2, NEXT_STEP), answer, n_steps=2).collect()


@pytest.mark.parametrize(("environments", "n_steps"), [([], 4), (Walk(2, NEXT_STEP), 0)])
def test_a_rollout_of_nothing_is_refused(environments, n_steps):
    with pytest.raises(ValueError, match="needs environments and n_steps of 1 or more"):
        Rollout(environments, act, n_steps)


# Stacks of frames ----------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tensors", [False, True], ids=["arrays", "tensors"])
def test_a_stack_holds_the_last_frames_of_this_episode_and_no_other(mode, tensors):
    stack = FrameStack(Walk(3, mode, tensors), n_frames=3, prepare=lambda screen: screen[:, None, :])
    rollout = Rollout(stack, lambda x: {"actions": x[:, 0, 0, 0].long(), "values": x[..., 1, -1].flatten()}, n_steps=30)
    steps = rollout.collect()
    for n in range(3):
        seen = steps.observations[n][steps.valid[n]]  # (T, 1, 2, 3)
        for frames in seen[:, 0]:
            episode, taken = frames[:, -1].tolist()
            assert frames[0].tolist() == [episode] * 3
            assert frames[1].tolist() == [max(taken - 2, 0), max(taken - 1, 0), taken]
    follows = steps.valid & ~steps.terminated
    assert torch.equal(steps.next_values[follows], steps.rewards[follows])  # both count the steps taken


def test_a_stack_of_nothing_is_refused():
    with pytest.raises(ValueError, match="n_frames of 1 or more, got 0"):
        FrameStack(Walk(2, NEXT_STEP), n_frames=0)


# Episodes ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_put_together_in_the_order_of_their_ends(mode):
    rollout, episodes = Rollout(Walk(2, mode), act, n_steps=4), Episodes(2)
    for _ in range(6):
        steps = rollout.collect()
        episodes.add(steps, steps.observations, steps.rewards)
    for seen, rewards in episodes.ended:
        assert rewards.tolist() == list(range(1, len(rewards) + 1))
        assert seen[:, 1].tolist() == list(range(len(rewards)))
        assert len(set(seen[:, 0].tolist())) == 1
    lengths = [len(rewards) for _, rewards in episodes.ended]
    assert lengths[:5] == [3, 4, 3, 4, 3]


def test_a_long_episode_keeps_no_rollouts_of_others():
    steps = Rollout(Catch(64), lambda x: {"actions": torch.zeros(len(x), dtype=torch.int64)}, n_steps=5).collect()
    never = torch.zeros_like(steps.terminated)
    ended = never.clone()
    ended[1:, -1] = True
    episodes, numbers = Episodes(64), torch.arange(64 * 5).view(64, 5)
    for _ in range(100):
        episodes.add(steps._replace(terminated=ended, truncated=never), numbers)
    kept = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for piece in episodes.begun[0] for x in piece}
    assert sum(kept.values()) < 40 * numbers.nbytes
    (whole,) = map(torch.cat, zip(*episodes.begun[0]))
    assert torch.equal(whole, numbers[0].repeat(100))
    saved = episodes.state_dict()["begun"][0][-1][0]
    assert saved.untyped_storage().nbytes() == saved.nbytes


def test_first_episodes_count_every_environment_once():
    found = first_episodes(Rollout(Walk(4, NEXT_STEP), act, n_steps=4))
    assert [rewards.tolist() for rewards in found] == [list(range(1, 4 + n)) for n in range(4)]


# Catch, and going on -------------------------------------------------------------


def follow(frames):
    """Catches every ball: goes where it will come down."""
    at = (frames[:, -1] > 0).float().argmax(1)
    column = (frames[:, :-1] > 0).any(1).float().argmax(1)
    return {"actions": torch.where(column > at + 2, 1, torch.where(column < at + 1, 2, 0))}


def test_every_ball_can_be_caught_and_standing_still_catches_one_in_five():
    caught = {}
    for name, policy in (("follow", follow), ("stand", lambda x: {"actions": torch.zeros(len(x), dtype=torch.int64)})):
        rewards = torch.stack(first_episodes(Rollout(Catch(100), policy, n_steps=95, seed=0)))
        assert rewards.shape == (100, 190)  # 19 steps a ball, 10 balls
        assert (rewards != 0).sum() == 1000
        caught[name] = (rewards > 0).sum().item() / 1000
    assert caught["follow"] == 1.0
    assert 0.15 < caught["stand"] < 0.25


def test_catch_shows_one_ball_and_one_bat():
    game = Catch(8, size=12, bat=3)
    frames, _ = game.reset(seed=1)
    for _ in range(40):
        assert set(frames.unique().tolist()) == {0, 255}
        n_lit = (frames > 0).flatten(1).sum(1)
        down = (frames[:, -1] > 0).sum(1)
        assert ((n_lit == 4) | (n_lit == 3)).all()  # a ball in the bat is hidden
        assert (down >= 3).all()
        frames, *_ = game.step(torch.randint(3, (8,)))


def test_catch_is_the_same_with_the_same_seed_and_draws_from_nowhere_else():
    def play(seed):
        game = Catch(4)
        game.reset(seed=seed)
        actions = torch.arange(200).view(50, 4) % 3
        return torch.stack([game.step(a)[0] for a in actions])

    before = torch.get_rng_state()
    assert torch.equal(play(3), play(3))
    assert not torch.equal(play(3), play(4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("wrong", [{"num_envs": 0}, {"num_envs": 1, "bat": 1}, {"num_envs": 1, "size": 3, "bat": 2}])
def test_a_catch_that_is_no_game_is_refused(wrong):
    with pytest.raises(ValueError, match="Catch needs games and balls, 4 rows or more, and a bat of 2 columns"):
        Catch(**wrong)


def drawn(generator):
    return lambda x: {"actions": torch.randint(3, (len(x),), generator=generator)}


def test_a_rollout_goes_on_where_its_state_was_taken():
    def make():
        generator = torch.Generator().manual_seed(0)
        return Rollout(FrameStack(Catch(4), 3), drawn(generator), n_steps=37, seed=5), generator

    rollout, generator = make()
    for _ in range(7):
        rollout.collect()
    state, draws = copy.deepcopy(rollout.state_dict()), generator.get_state()
    expected = [tuple(map(torch.clone, rollout.collect()[:7])) for _ in range(7)]
    again, generator = make()
    again.load_state_dict(state)
    generator.set_state(draws)
    for columns in expected:
        for ours, theirs in zip(again.collect()[:7], columns):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_environments_that_cannot_tell_begin_anew():
    rollout = Rollout(Walk(2, NEXT_STEP), act, n_steps=3)
    rollout.collect()
    assert rollout.state_dict() == {}
    rollout.load_state_dict({})
    assert rollout.collect().observations.shape == (2, 3, 2)


def up(frames):
    return {"actions": torch.full((len(frames),), 2), "values": frames[..., -1].float().mean((1, 2))}


def test_the_emulator_plays_the_same_steps_in_either_mode():
    """Its episodes are cut off after 20 frames; without idle frames they are all alike."""
    vector_env = pytest.importorskip("ale_py.vector_env", reason="needs ale-py: pip install torchlayer[rl]")
    gymnasium = pytest.importorskip("gymnasium")
    found = {}
    for mode in (NEXT_STEP, SAME_STEP):  # the emulator knows two
        envs = vector_env.AtariVectorEnv(
            "pong", 2, stack_num=1, noop_max=0, use_fire_reset=False, max_num_frames_per_episode=20,
            autoreset_mode=gymnasium.vector.AutoresetMode(mode),
        )  # fmt: skip
        stack = FrameStack(envs, n_frames=2, prepare=lambda screen: screen[:, 0, ::4, ::4])
        rollout = Rollout(stack, up, n_steps=24, seed=0)
        steps = rollout.collect()
        assert steps.truncated.any()
        assert not steps.terminated.any()
        kept = steps.valid[0].nonzero().flatten()[:18]
        found[mode] = [x[0, kept] for x in (steps.observations, steps.rewards, steps.truncated, steps.next_values)]
        rollout.close()
    for ours, theirs in zip(found[SAME_STEP], found[NEXT_STEP]):
        assert torch.equal(ours, theirs)


# Captured ------------------------------------------------------------------------


def drawing(weight, generator):
    """A policy that draws, from logits that ``weight`` decides."""

    def act(observations):
        logits = observations.float().flatten(1) @ weight
        return {"actions": tl.nlp.sample_logits(logits, rng=generator), "values": logits.sum(-1)}

    return act


def played(capture, device):
    generator, weight = torch.Generator(device).manual_seed(0), torch.randn(400, 3, device=device)
    rollout = Rollout(
        Catch(num_envs=5, device=device), drawing(weight, generator), 8,
        device=device, seed=0, capture=capture, generators=[generator],
    )  # fmt: skip
    found = []
    for _ in range(3):
        steps = rollout.collect()
        found += [x.clone() for x in (steps.observations, steps.actions, steps.rewards, steps.extras["values"])]
        weight.neg_()  # trained in place
    rollout.set_act(drawing(weight, generator), [generator])
    found.append(rollout.collect().actions.clone())
    rollout.close()
    return found


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_a_captured_act_plays_as_it_would_have(device):
    torch.manual_seed(1)
    expected = played(False, device)
    torch.manual_seed(1)
    for ours, theirs in zip(played(True, device), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@needs_cuda
def test_an_act_that_waits_for_the_device_is_not_captured():
    def act(observations):
        return {"actions": torch.full((len(observations),), observations.sum().int().item() % 3, device="cuda")}

    rollout = Rollout(Catch(num_envs=2, device="cuda"), act, 4, device="cuda", seed=0, capture=True)
    with pytest.raises(RuntimeError, match=r"act cannot be captured: .*capture=False runs it as it is"):
        rollout.collect()
    rollout.close()
