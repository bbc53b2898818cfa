"""Reinforcement learning in parts: rewards and advantages, losses, normalisation, and playing many games at once.

There is no agent class and no trainer here. ``examples/tutorial_cartpole.py`` shows the parts in a loop of fifty lines,
``examples/tutorial_atari_pong.py`` in one that learns Pong from pixels.

Time is the last axis, ``(*, T)``: one row an episode, or an environment.
"""

from .actions import choice_action_by_probs as choice_action_by_probs
from .advantages import generalized_advantages as generalized_advantages
from .advantages import vtrace as vtrace
from .catch import Catch as Catch
from .environments import BrokenEnvironment as BrokenEnvironment
from .episodes import Episodes as Episodes
from .episodes import first_episodes as first_episodes
from .frames import FrameStack as FrameStack
from .losses import cross_entropy_reward_loss as cross_entropy_reward_loss
from .losses import log_weight as log_weight
from .losses import ppo_loss as ppo_loss
from .losses import value_loss as value_loss
from .rewards import discount_episode_rewards as discount_episode_rewards
from .rollout import Rollout as Rollout
from .rollout import Steps as Steps
from .running_norm import RunningNorm as RunningNorm
