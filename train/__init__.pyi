# SPDX-License-Identifier: Apache-2.0
from .config import Recipe as Recipe
from .config import Stage as Stage
from .datasets import open_dataset as open_dataset
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .optimizer import TrainingDiverged as TrainingDiverged
from .recipes import RECIPES as RECIPES
from .recipes import recipe as recipe
from .run import Run as Run
from .run import train_pair as train_pair
from .run import train_stage_one as train_stage_one
from .run import train_stage_two as train_stage_two
from .state import TimeBudgetSpent as TimeBudgetSpent
